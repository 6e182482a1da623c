"""The contract of preparations, and corrections for a sampler that is not the policy."""

import pytest
import torch
from autograd_rows import check_against_autograd, rows, sides_of
from sequence_cases import sequences

from nsr_fast.kernels.tokens import TokenRows
from nsr_fast.objective.corrections import IcePop, OffPolicyNegatives, SequenceMask
from nsr_fast.objective.preparation import Sequences, fold_factor, kept_lengths, prepare
from nsr_fast.objective.ratio import PpoClip
from nsr_fast.objective.sequence import (
    GmpoRatio,
    KlCovMarks,
    SequenceRatio,
    SpuriousTokens,
    TopEntropy,
    ZeroVariance,
)
from nsr_fast.objective.surrogate import PolicyGradient

EVERY = [
    *(SequenceRatio(), SequenceRatio("product", "sampler"), GmpoRatio(), KlCovMarks(0.2)),
    *(TopEntropy(), SpuriousTokens(0.2, 0.5, "both"), ZeroVariance()),
    *(SequenceMask(0.9, 1.1), SequenceMask(0.5, 2.0, "product"), OffPolicyNegatives(0.05)),
]


@pytest.mark.parametrize("preparation", EVERY, ids=repr)
def test_order_of_the_sequences_changes_nothing(preparation):
    order = [3, 0, 4, 2, 1]
    given = sequences()
    fields = ("weight", "logprob", "entropy", "old_logprob", "sampler_logprob", "entropy_share")
    moved = Sequences(**{name: [getattr(given, name)[i] for i in order] for name in fields})
    first, second = prepare([preparation], given), prepare([preparation], moved)
    (name,) = first
    assert [len(x) for x in first[name]] == [len(x) for x in given.weight]
    for place, i in enumerate(order):
        assert torch.allclose(second[name][place], first[name][i], rtol=1e-14)
    assert not bool(torch.cat(first[name]).isnan().any())


@pytest.mark.parametrize("preparation", EVERY, ids=repr)
def test_what_a_preparation_needs_and_lacks_is_named(preparation):
    lacking = Sequences([torch.ones(2)])
    with pytest.raises(ValueError, match="expected one tensor a sequence, got None; "):
        prepare([preparation], lacking)
    with pytest.raises(ValueError, match=r"entropy: expected sequences of .2. tokens, got .3."):
        Sequences([torch.ones(2)], entropy=[torch.ones(3)])


def test_a_sequence_without_a_token_is_no_trouble():
    given = sequences((3, 0, 2))
    for preparation in EVERY:
        (values,) = prepare([preparation], given).values()
        assert [len(x) for x in values] == [3, 0, 2]


def test_factors_multiply_and_anything_else_is_made_once():
    given = sequences()
    both = prepare([TopEntropy(0.4), ZeroVariance(), SequenceRatio()], given)
    first, second = (torch.cat(x(given)["factor"]) for x in (TopEntropy(0.4), ZeroVariance()))
    assert set(both) == {"factor", "sequence_ratio"}
    assert torch.equal(torch.cat(both["factor"]), first * second)
    with pytest.raises(ValueError, match="sequence_ratio: made by two preparations, GmpoRatio"):
        prepare([SequenceRatio(), GmpoRatio()], given)
    with pytest.raises(ValueError, match=r"expected names of old_logprob, .* got 'weights'"):
        prepare([lambda rows: {"weights": rows.weight}], given)


def test_a_factor_folded_into_the_weight_gives_the_same_slopes():
    given = sequences()
    sides = prepare([TopEntropy(0.4), SequenceRatio()], given)
    weight, rest = fold_factor(given.weight, sides)
    assert set(rest) == {"sequence_ratio"}
    at, old = given.flat("logprob"), given.flat("old_logprob")
    factor = torch.cat(sides["factor"])
    aside = PpoClip()(TokenRows(at, at, given.flat("weight"), old, factor=factor))
    folded = PpoClip()(TokenRows(at, at, torch.cat(weight), old))
    assert torch.equal(aside.c, folded.c) and torch.equal(aside.loss, folded.loss)
    assert kept_lengths(weight) == [int((x != 0).sum()) for x in sides["factor"]]
    assert sum(kept_lengths(weight)) == 10  # 0.4 of 25
    assert fold_factor(given.weight, {})[0] == given.weight


@pytest.mark.parametrize("low, high, is_mask", [(0.5, 5.0, False), (0.8, 1.3, True)])
def test_icepop_drops_tokens_outside_and_weighs_those_inside(low, high, is_mask):
    def formula(x, r):
        trust = (r.old_logprob - r.sampler_logprob).exp()
        trust = ((trust >= low) & (trust <= high)) * (1.0 if is_mask else trust)
        ratio = (x - r.old_logprob).exp()
        w = r.token_weight * trust
        return -torch.minimum(w * ratio, w * ratio.clamp(0.8, 1.2))

    r = sides_of(rows(), "old_logprob", "sampler_logprob")
    terms = check_against_autograd(PpoClip(rules=(IcePop(low, high, is_mask),)), formula, r)
    assert 10 < int((terms.c == 0).sum()) < 390


def test_icepop_without_old_logprobs_reads_the_policy_and_holds_it_constant():
    r = sides_of(rows(), "sampler_logprob")
    terms = PolicyGradient(rules=(IcePop(0.7, 1.5),))(r)
    ratio = (r.logprob - r.sampler_logprob).exp()
    inside = (ratio >= 0.7) & (ratio <= 1.5)
    assert torch.allclose(terms.c, torch.where(inside, -r.token_weight * ratio, 0.0))
    far = sides_of(rows(extreme=True, dtype=torch.float32), "sampler_logprob")
    assert bool(PolicyGradient(rules=(IcePop(),))(far).loss.isfinite().all())


def constant_gap(gaps, weights):
    """One sequence of 4 tokens a gap: logprob - sampler = gap on average."""
    lean = torch.tensor([0.5, -0.5, 0.25, -0.25])
    sampler = [torch.full((4,), -2.0)] * len(gaps)
    policy = [x + gap + lean for x, gap in zip(sampler, gaps)]
    w = [torch.full((4,), weight) for weight in weights]
    return Sequences(w, policy, sampler_logprob=sampler)


def test_sequence_mask_by_hand():
    given = constant_gap([0.0, 0.25, 0.3, -0.3], [1.0, -1.0, 1.0, -1.0])
    high = float(torch.tensor(0.25).double().exp())  # met exactly by the second
    kept = [x[0].item() for x in SequenceMask(0.8, high)(given)["factor"]]
    assert kept == [1.0, 1.0, 0.0, 0.0]
    kept = [x[0].item() for x in SequenceMask(0.5, 2.0, "product")(given)["factor"]]
    assert kept == [1.0, 0.0, 0.0, 0.0]
    old = Sequences(
        given.weight,
        given.logprob,
        old_logprob=given.sampler_logprob,
        sampler_logprob=given.logprob,
    )
    flipped = [x[0].item() for x in SequenceMask(0.8, high)(old)["factor"]]
    assert flipped == [1.0, 0.0, 0.0, 0.0]  # policy is old_logprob where it is given


def test_off_policy_negatives_by_hand():
    given = constant_gap([-0.6, -0.6, -0.5, 2.0], [1.0, -1.0, -1.0, -1.0])
    made = OffPolicyNegatives(0.5)(given)["factor"]
    assert [x.tolist() for x in made] == [[1.0] * 4, [0.0] * 4, [1.0] * 4, [1.0] * 4]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: IcePop(2.0, 1.0), "low: expected a number <= high=1.0, got 2.0"),
        (lambda: SequenceMask(kind="sum"), "kind: expected 'geometric' or 'product'"),
        (lambda: SequenceMask(-1.0), "low: expected a number >= 0"),
        (lambda: OffPolicyNegatives(-0.1), "limit"),
        (lambda: SequenceRatio("sum"), "kind: expected 'mean' or 'product'"),
        (lambda: SequenceRatio(against="ref"), "against: expected 'old' or 'sampler'"),
        (lambda: TopEntropy(0.0), r"share: expected a number in \(0, 1\)"),
        (lambda: SpuriousTokens(on="up"), "on: expected one of positive, negative, both"),
        (lambda: ZeroVariance(float("nan")), "alpha"),
        (lambda: GmpoRatio(epsilon_high=-1.0), "epsilon_high"),
    ],
)
def test_bad_numbers_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
