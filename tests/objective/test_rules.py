"""Token rules by hand, the entropy controller, and c with them against autograd."""

import pytest
import torch
from autograd_rows import check_against_autograd, rows

from nsr_fast.kernels.tokens import TokenRows
from nsr_fast.objective.entropy import AdaptiveEntropy
from nsr_fast.objective.rules import EntropyScale, MinEntropy, PolarTokens, SilenceSpurious
from nsr_fast.objective.surrogate import PolicyGradient

P = torch.tensor([0.001, 0.001, 0.5, 0.9, 0.001, 0.001, 0.5, 0.9], dtype=torch.float64)
H = torch.tensor([0.05, 1.0, 0.05, 0.05, 0.05, 1.0, 0.05, 0.05], dtype=torch.float64)
W = torch.tensor([1.0] * 4 + [-1.0] * 4, dtype=torch.float64)
ROWS = TokenRows(P.log(), H, W, entropy_share=torch.tensor([0.0, 0.5] * 4).double())


@pytest.mark.parametrize(
    "rule, factors",
    [
        (SilenceSpurious(0.01, 0.1), [0, 1, 1, 1, 1, 1, 1, 1]),
        (SilenceSpurious(0.01, 0.1, "negative"), [1, 1, 1, 1, 0, 1, 1, 1]),
        (SilenceSpurious(0.01, 0.1, "both"), [0, 1, 1, 1, 0, 1, 1, 1]),
        (SilenceSpurious(0.6, 0.1, "both"), [0, 1, 0, 1, 0, 1, 0, 1]),
        (SilenceSpurious(0.01, 0.05, "both"), [1] * 8),
        (EntropyScale(), [1, 1, 1, 0.525, 1, 1, 1, 0.525]),
        (MinEntropy(0.05), [1] * 8),
        (MinEntropy(0.06), [0, 1, 0, 0, 0, 1, 0, 0]),
        (PolarTokens(3.0, 0.5), [3, 3, 1, 1, 1, 1, 1, 0.5]),
        (PolarTokens(3.0, 0.5, below=0.6, above=0.4), [3, 3, 3, 1, 1, 1, 0.5, 0.5]),
    ],
    ids=repr,
)
def test_factors_by_hand(rule, factors):
    want = torch.tensor(factors, dtype=torch.float64)
    assert torch.allclose(rule(ROWS), want) and rule(ROWS).dtype == torch.float64

    def formula(x, r):
        return -r.token_weight * want * x

    check_against_autograd(PolicyGradient(rules=(rule,)), formula, ROWS)


def test_rules_are_held_constant():
    """The rule reads logprob and entropy, and nothing is differentiated through it."""
    r = rows()
    terms = PolicyGradient(rules=(PolarTokens(), EntropyScale()))(r)
    assert terms.e is None
    factor = PolarTokens()(r) * EntropyScale()(r) * r.factor
    assert torch.allclose(terms.c, -r.token_weight * factor)


def test_an_entropy_cap_spares_uncertain_tokens_and_never_turns_the_sign():
    """A weight scale (1 - cap) with the share 1 / (1 - cap) is -scale (cap - H), 0 for H > cap."""
    cap, entropy = 1.5, torch.tensor([0.0, 0.5, 1.5, 4.0])
    w, share = torch.full((4,), 0.1 * (1 - cap)), torch.full((4,), 1 / (1 - cap))
    effective = w * EntropyScale()(TokenRows(w, entropy, w, entropy_share=share))
    assert torch.allclose(effective, torch.tensor([-0.15, -0.1, 0.0, 0.0]))


def test_polar_tokens_fade_to_one_over_a_run():
    rule = PolarTokens(3.0, 0.5)
    assert rule.annealed(0.0) == rule
    assert rule.annealed(0.5) == PolarTokens(2.0, 0.75)
    assert rule.annealed(1.0) == PolarTokens(1.0, 1.0)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SilenceSpurious(on="up"), "on: expected one of positive, negative, both"),
        (lambda: SilenceSpurious(-0.1), "probability: expected a number >= 0"),
        (lambda: PolarTokens(above=0.0), r"above: expected a probability in \(0, 1\], got 0.0"),
        (lambda: PolarTokens(negative=-1.0), "negative"),
        (lambda: MinEntropy(float("nan")), "entropy"),
        (lambda: AdaptiveEntropy(-1.0), "target"),
        (lambda: AdaptiveEntropy(0.5, least=0.2, most=0.1), "least: expected a number <= most=0.1"),
    ],
)
def test_bad_numbers_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_entropy_coefficient_follows_its_target():
    control = AdaptiveEntropy(target=0.5, delta=0.25, least=0.0, most=0.6)
    coef, seen = 0.25, []
    for entropy in (0.4, 0.5, 0.3, 0.6, 0.7, 0.9, 0.9):
        coef = control.next(coef, entropy)
        seen.append(coef)
    assert seen == pytest.approx([0.5, 0.6, 0.6, 0.35, 0.1, 0.0, 0.0])
    assert control.applied(0.3, 0.5) == 0.3 and control.applied(0.3, 0.51) == 0.0
    assert control.applied(0.3, None) == 0.3
