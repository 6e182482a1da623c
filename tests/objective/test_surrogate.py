"""What every surrogate shares: factors, scale, KL and entropy terms, and the pass around them."""

import pytest
import torch
from autograd_rows import check_against_autograd, rows, sides_of
from linear_cases import ALL, head_case, leaves
from torch import Tensor

from nsr_fast.kernels.head import Head, TokenInputs
from nsr_fast.kernels.policy_loss import linear_policy_loss, policy_pass
from nsr_fast.kernels.tokens import SIDES, TokenRows
from nsr_fast.objective.corrections import IcePop
from nsr_fast.objective.ratio import KlCov, PpoClip
from nsr_fast.objective.rules import EntropyScale
from nsr_fast.objective.surrogate import PolicyGradient


def ppo(x, r, weight):
    ratio = (x - r.old_logprob).exp()
    return -torch.minimum(weight * ratio, weight * ratio.clamp(0.8, 1.2))


def test_factor_and_rules_multiply_the_weight():
    def formula(x, r):
        scaled = 1 - r.entropy_share + r.entropy_share * r.entropy.detach()
        return ppo(x, r, r.token_weight * r.factor * scaled)

    r = sides_of(rows(), "old_logprob", "factor", "entropy_share")
    terms = check_against_autograd(PpoClip(rules=(EntropyScale(),)), formula, r)
    assert bool((terms.c[r.factor == 0] == 0).all()) and int((r.factor == 0).sum()) > 20


def test_penalties_count_by_scale_and_not_by_the_factor():
    def formula(x, r):
        gap = x - r.ref_logprob
        kl = (-gap).exp() + gap - 1
        return -r.token_weight * r.factor * x + r.scale * (0.3 * kl - 0.2 * r.entropy)

    r = sides_of(rows(), "ref_logprob", "factor", "scale")
    terms = check_against_autograd(PolicyGradient(kl_coef=0.3, entropy_coef=0.2), formula, r)
    assert torch.allclose(terms.e, -0.2 * r.scale)


def test_entropy_coef_without_a_scale_is_that_of_the_pass():
    case = head_case(20, 30, 5)
    results = []
    for options in ({"entropy_coef": 0.3}, {"surrogate": PolicyGradient(entropy_coef=0.3)}):
        hidden, weight = leaves(case, "hidden", "weight")
        args = (hidden, weight, case["target"], case["token_weight"])
        loss = linear_policy_loss(*args, **options).loss
        loss.backward()
        results.append((loss, hidden.grad, weight.grad))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results))


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_of_extreme_gaps_is_the_formula_of_the_held_gap(kind):
    def formula(x, r):
        gap = x - r.ref_logprob
        held = gap.clamp(-20, 20)
        value = {"k1": gap, "k2": gap**2 / 2, "k3": torch.expm1(-held) + held}[kind]
        return -r.token_weight * x + 0.3 * value

    r = sides_of(rows(extreme=True), "ref_logprob")
    check_against_autograd(PolicyGradient(kl=kind, kl_coef=0.3), formula, r)
    r = sides_of(rows(extreme=True, dtype=torch.float32), "ref_logprob")
    assert bool(PolicyGradient(kl=kind, kl_coef=0.3)(r).loss.isfinite().all())


def test_a_rule_must_be_one_and_its_needs_are_named():
    with pytest.raises(ValueError, match="rules: expected token rules, got"):
        PpoClip(rules=(EntropyScale,))
    with pytest.raises(ValueError, match="rules: expected token rules, got 3"):
        PpoClip(rules=(3,))
    needs = PpoClip(rules=(IcePop(), EntropyScale()), kl_coef=0.1).needs
    assert needs == ("old_logprob", "sampler_logprob", "ref_logprob", "entropy_share")


class Everything(PpoClip):
    """Fails unless every side input arrives in its own place: side k of row t is 10 k + t."""

    @property
    def needs(self):
        return SIDES

    def policy_term(self, rows: TokenRows):
        base = rows.token_weight.abs() * 1000
        for k, name in enumerate(SIDES):
            value = getattr(rows, name)
            assert torch.equal(value, (base + 10 * k).to(value)), name
        return super().policy_term(rows)

    def _weighed(self, rows: TokenRows) -> TokenRows:
        return rows


@pytest.mark.parametrize("chunk_rows", [3, None])
def test_every_side_input_reaches_its_row(chunk_rows):
    case = head_case(11, 30, 5)
    w = torch.arange(11.0) / 1000
    sides = {name: torch.arange(11.0) + 10 * k for k, name in enumerate(SIDES)}
    tokens = TokenInputs(case["hidden"], case["target"], w, **sides)
    policy_pass(Head(case["weight"], chunk_rows=chunk_rows), tokens, Everything())
    args = (case["hidden"], case["weight"], case["target"], w)
    linear_policy_loss(*args, surrogate=Everything(), chunk_rows=chunk_rows, **sides)


def test_a_side_input_that_is_missing_or_of_the_wrong_form_is_named():
    case = head_case(4, 9, 3)
    args = (case["hidden"], case["weight"], case["target"], case["token_weight"])
    with pytest.raises(ValueError, match=r"mark: expected \[T\], got None; KlCov"):
        linear_policy_loss(*args, surrogate=KlCov(), old_logprob=torch.ones(4))
    with pytest.raises(ValueError, match=r"factor: expected \[T\]=\[4\] float32"):
        linear_policy_loss(*args, factor=torch.ones(3))
    with pytest.raises(ValueError, match="scale: expected a tensor, got float"):
        linear_policy_loss(*args, scale=0.5)
    with pytest.raises(TypeError, match="size"):
        linear_policy_loss(*args, size=torch.ones(4))


def full_loss(hidden: Tensor, weight: Tensor, case, r) -> Tensor:
    logp = torch.log_softmax(hidden @ weight.t() + case["bias"].double(), 1)
    chosen = logp.gather(1, case["target"][:, None]).squeeze(1)
    entropy = -(logp.exp() * logp).sum(1)
    policy = ppo(chosen, r, r.token_weight * r.factor)
    gap = chosen - r.ref_logprob
    kl = (-gap).exp() + gap - 1
    loss = policy + r.scale * (0.3 * kl - 0.2 * entropy)
    return loss[r.token_weight != 0].sum()


def test_gradients_through_the_head_with_rows_of_weight_0():
    case = head_case(40, 60, 5)
    with torch.no_grad():
        logits = case["hidden"].double() @ case["weight"].double().t() + case["bias"].double()
        at = torch.log_softmax(logits, 1).gather(1, case["target"][:, None]).squeeze(1)
    noise = rows(40)
    w = noise.token_weight.clone()
    w[::5] = 0.0
    sides = {name: getattr(noise, name) for name in ("factor", "scale")}
    sides |= {"old_logprob": at + 0.3 * noise.logprob, "ref_logprob": at - 0.1 * noise.logprob}
    r = TokenRows(at, at, w, **sides)
    hidden, weight, _ = leaves(case, *ALL, dtype=torch.float64)
    expected = torch.autograd.grad(full_loss(hidden, weight, case, r), [hidden, weight])
    surrogate = PpoClip(kl_coef=0.3, entropy_coef=0.2)
    got = linear_policy_loss(
        hidden,
        weight,
        case["target"],
        w,
        bias=case["bias"].double(),
        surrogate=surrogate,
        backend="reference",
        chunk_rows=7,
        **sides,
    ).loss
    assert torch.allclose(got, full_loss(hidden, weight, case, r), atol=1e-12)
    for a, b in zip(torch.autograd.grad(got, [hidden, weight]), expected):
        assert torch.allclose(a, b, atol=1e-12)
