"""Ratio surrogates: c against autograd on the published formula, at extremes and at the bounds."""

import math

import pytest
import torch
from autograd_rows import check_against_autograd, rows, sides_of

from nsr_fast.objective.terms import Cispo, Dppo, Gmpo, Gspo, KlCov, PpoClip, Sapo, Topr

NAMES = ("old_logprob", "sampler_logprob", "sequence_ratio", "mark", "scale")


def log_ratio(x, r):
    return (x - r.old_logprob).clamp(-20, 20)


def ppo(x, r, low=0.8, high=1.2):
    ratio = log_ratio(x, r).exp()
    return -torch.minimum(r.token_weight * ratio, r.token_weight * ratio.clamp(low, high))


def dual(x, r):
    return torch.where(r.token_weight < 0, torch.minimum(ppo(x, r), -3 * r.token_weight), ppo(x, r))


def cispo(x, r):
    return -log_ratio(x, r).exp().clamp(0.7, 1.4).detach() * r.token_weight * x


def sapo(x, r):
    tau = torch.full_like(x, 1.05)
    tau[r.token_weight > 0] = 1.0
    return -r.token_weight * torch.sigmoid(tau * (log_ratio(x, r).exp() - 1)) * 4 / tau


def dppo(x, r, divergence="tv"):
    p, q = x.exp(), r.old_logprob.exp()
    size = (p - q).abs()
    if divergence == "kl":
        size = q * (q / p).log() + (1 - q) * ((1 - q + 1e-8) / (1 - p + 1e-8)).log()
    up, down = (size > 0.2) & (p > q), (size > 0.15) & (p < q)
    keep = torch.where(r.token_weight > 0, ~up, ~down).double()
    return -r.token_weight * (log_ratio(x, r).exp().clamp(max=20) * keep).detach() * x


def topr(x, r):
    ratio = log_ratio(x, r).exp().clamp(0, 1)
    return -r.token_weight * torch.where(r.token_weight < 0, ratio, 1.0).detach() * x


def topr_of_sequences(x, r):
    ratio = torch.where(r.token_weight < 0, r.sequence_ratio.clamp(0, 1), 1.0)
    return -r.token_weight * ratio * x


def kl_cov(x, r):
    penalty = 0.7 * r.scale * r.mark * (x - r.old_logprob).abs()
    return -r.token_weight * log_ratio(x, r).exp() + penalty


CASES = [
    (PpoClip(0.2), ppo),
    (PpoClip(0.2, 0.28), lambda x, r: ppo(x, r, 0.8, 1.28)),
    (PpoClip(dual_clip=3.0), dual),
    (Cispo(0.3, 0.4), cispo),
    (Sapo(), sapo),
    (Dppo(delta_high=0.2), dppo),
    (Dppo("kl", delta_low=0.15, delta_high=0.2), lambda x, r: dppo(x, r, "kl")),
    (Topr(level="token"), topr),
    (Topr(), topr_of_sequences),
    (KlCov(cov_coef=0.7), kl_cov),
]


@pytest.mark.parametrize("surrogate, formula", CASES, ids=[repr(s) for s, _ in CASES])
@pytest.mark.parametrize("extreme", [False, True])
def test_slope_is_that_of_the_formula(surrogate, formula, extreme):
    r = sides_of(rows(extreme=extreme), *NAMES)
    terms = check_against_autograd(surrogate, formula, r)
    if terms.is_clipped is not None and not isinstance(surrogate, Topr):
        assert 10 < int(terms.is_clipped.sum()) < 390


@pytest.mark.parametrize("surrogate, _", CASES, ids=[repr(s) for s, _ in CASES])
def test_extreme_log_ratios_stay_finite_in_float32(surrogate, _):
    r = rows(40, dtype=torch.float32, extreme=True)
    terms = surrogate(sides_of(r, *surrogate.needs))
    assert terms.loss.dtype == terms.c.dtype == torch.float32
    assert bool(terms.loss.isfinite().all()) and bool(terms.c.isfinite().all())


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("gap", [-0.2, 0.2])
def test_a_ratio_exactly_at_a_bound_keeps_its_slope(gap, sign):
    r = rows(4)
    at = r.logprob - r.logprob.new_tensor(gap)
    r = type(r)(r.logprob, r.entropy, torch.full_like(at, sign), at)
    ratio = float((r.logprob - at).exp()[0])
    r = type(r)(*(x[:1] for x in (r.logprob, r.entropy, r.token_weight, r.old_logprob)))
    distance = abs(ratio - 1.0)
    assert 1.0 + math.copysign(distance, gap) == ratio
    terms = check_against_autograd(
        PpoClip(distance, distance), lambda x, r: ppo(x, r, 1 - distance, 1 + distance), r
    )
    assert float(terms.c[0]) == -sign * ratio and not bool(terms.is_clipped.any())
    beyond = PpoClip(distance * 0.999, distance * 0.999)(r)
    assert bool(beyond.is_clipped.any()) == (sign * gap > 0)


def test_ratios_may_be_taken_against_the_sampler():
    r = rows()
    swapped = type(r)(r.logprob, r.entropy, r.token_weight, r.sampler_logprob)
    for surrogate in (PpoClip, Cispo, Sapo, Dppo):
        sampler = surrogate(against="sampler")
        assert sampler.needs == ("sampler_logprob",)
        assert torch.equal(sampler(sides_of(r, "sampler_logprob")).c, surrogate()(swapped).c)
    with pytest.raises(ValueError, match="sampler_cap: expected None with against='sampler'"):
        PpoClip(against="sampler", sampler_cap=2.0)
    with pytest.raises(ValueError, match="against: expected 'old' or 'sampler', got 'ref'"):
        Dppo(against="ref")


def test_sapo_on_policy_is_the_plain_gradient():
    r = rows(8)
    r = type(r)(r.logprob, r.entropy, r.token_weight, r.logprob)
    assert torch.allclose(Sapo(1.3, 2.1)(r).c, -r.token_weight)


def test_dppo_never_drops_a_token_that_moves_back():
    """The only tokens that lose their gradient moved the way the weight pushes."""
    r = sides_of(rows(), "old_logprob")
    for surrogate in (Dppo(delta_low=0.0), Dppo("kl", delta_low=0.0)):
        moved_on = (r.logprob - r.old_logprob) * r.token_weight > 0
        assert torch.equal(surrogate(r).is_clipped, moved_on)


def test_topr_caps_wrong_rows_alone():
    r = sides_of(rows(), "sequence_ratio")
    terms = Topr()(r)
    assert torch.equal(terms.c[r.token_weight > 0], -r.token_weight[r.token_weight > 0])
    assert torch.equal(terms.is_clipped, (r.token_weight < 0) & (r.sequence_ratio > 1))


def test_needs_of_each():
    assert Topr().needs == Gspo().needs == ("sequence_ratio",)
    assert Topr(level="token").needs == ("old_logprob",)
    assert KlCov().needs == ("old_logprob", "mark")
    assert Gmpo().needs == ("old_logprob", "sequence_ratio")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Sapo(tau_negative=0.0), "tau_negative: expected a number > 0"),
        (lambda: Dppo("js"), "divergence: expected 'tv' or 'kl'"),
        (lambda: Dppo(delta_high=-0.1), "delta_high: expected a number >= 0"),
        (lambda: Topr("word"), "level: expected 'sequence' or 'token'"),
        (lambda: Topr(cap=math.inf), "cap: expected a number >= 0"),
        (lambda: KlCov(cov_coef=math.nan), "cov_coef"),
        (lambda: Gspo(epsilon=-1.0), "epsilon"),
    ],
)
def test_bad_numbers_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
