"""Each surrogate's c and e against autograd on its published formula, written out here."""

import pytest
import torch

from nsr_fast.kernels.head import TokenRows, TokenTerms
from nsr_fast.kernels.policy_loss import linear_policy_loss
from nsr_fast.objective.terms import Cispo, PolicyGradient, PpoClip, Surrogate


def rows(tokens: int = 400) -> TokenRows:
    g = torch.Generator().manual_seed(0)
    logprob = -torch.rand(tokens, generator=g, dtype=torch.float64) * 4
    near = [logprob + torch.randn(tokens, generator=g, dtype=torch.float64) * 0.5 for _ in range(3)]
    w = torch.randn(tokens, generator=g, dtype=torch.float64)
    return TokenRows(logprob, torch.rand(tokens, generator=g, dtype=torch.float64), w, *near)


def check_against_autograd(surrogate, formula) -> TokenTerms:
    """formula(logprob, rows) is the loss per row, .detach() where a factor is held constant."""
    r = rows()
    logprob = r.logprob.clone().requires_grad_()
    loss = formula(logprob, r)
    (c,) = torch.autograd.grad(loss.sum(), logprob)
    terms = surrogate(r)
    assert torch.allclose(terms.loss, loss.detach()) and torch.allclose(terms.c, c)
    assert terms.e is None
    return terms


def ppo(logprob, r, low=0.8, high=1.2):
    ratio = (logprob - r.old_logprob).exp()
    return -torch.minimum(r.token_weight * ratio, r.token_weight * ratio.clamp(low, high))


def test_policy_gradient():
    check_against_autograd(PolicyGradient(), lambda x, r: -r.token_weight * x)


def test_ppo_clip_and_clip_higher():
    terms = check_against_autograd(PpoClip(0.2), ppo)
    assert 0 < int(terms.is_clipped.sum()) < 400
    assert torch.equal(terms.is_clipped, terms.c == 0)
    check_against_autograd(PpoClip(0.2, 0.28), lambda x, r: ppo(x, r, 0.8, 1.28))


def test_dual_clip_bounds_the_loss_of_negative_weights():
    def formula(x, r):
        far = -3.0 * r.token_weight
        return torch.where(r.token_weight < 0, torch.minimum(ppo(x, r), far), ppo(x, r))

    check_against_autograd(PpoClip(dual_clip=3.0), formula)
    with pytest.raises(ValueError, match="dual_clip: expected a number > 1"):
        PpoClip(dual_clip=1.0)


def test_cispo_holds_the_clipped_ratio_constant():
    def formula(x, r):
        return -(x - r.old_logprob).exp().clamp(0.7, 1.4).detach() * r.token_weight * x

    check_against_autograd(Cispo(0.3, 0.4), formula)


def test_sampler_correction_is_truncated_and_held_constant():
    def trust(x, r):
        return (r.old_logprob - r.sampler_logprob).exp().clamp(max=1.5)

    check_against_autograd(PpoClip(sampler_cap=1.5), lambda x, r: ppo(x, r) * trust(x, r))


def test_sampler_correction_falls_back_on_the_current_policy():
    r = rows()
    r = TokenRows(r.logprob, r.entropy, r.token_weight, None, r.sampler_logprob)
    trust = (r.logprob - r.sampler_logprob).exp().clamp(max=2.0)
    assert torch.allclose(PolicyGradient(sampler_cap=2.0)(r).c, -r.token_weight * trust)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimators(kind):
    def formula(x, r):
        gap = x - r.ref_logprob
        value = {"k1": gap, "k2": gap**2 / 2, "k3": (-gap).exp() + gap - 1}[kind]
        return -r.token_weight * x + 0.3 * value

    check_against_autograd(PolicyGradient(kl=kind, kl_coef=0.3), formula)


def test_k3_is_never_negative_near_zero():
    gap = torch.linspace(-1e-3, 1e-3, 2001)
    r = TokenRows(gap, gap, torch.zeros(2001), ref_logprob=torch.zeros(2001))
    assert bool((PolicyGradient(kl_coef=1.0)(r).loss >= 0).all())


@pytest.mark.parametrize("change", [{"kl": "k4"}, {"kl_coef": -1.0}, {"sampler_cap": float("inf")}])
def test_bad_numbers_are_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        PpoClip(**change)


def test_needs_names_the_side_inputs_that_are_read():
    assert PolicyGradient().needs == () and Cispo().needs == ("old_logprob",)
    every = PpoClip(sampler_cap=2.0, kl="k1", kl_coef=0.5).needs
    assert every == ("old_logprob", "sampler_logprob", "ref_logprob")


def head():
    g = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(20, 5, generator=g), torch.randn(30, 5, generator=g)
    target = torch.randint(0, 30, (20,), generator=g)
    return hidden.requires_grad_(), weight.requires_grad_(), target, torch.randn(20, generator=g)


def test_a_user_function_of_the_same_form_is_used():
    def focal(r: TokenRows) -> TokenTerms:
        """-w (1 - p) logprob plus 0.1 entropy^2."""
        p = r.logprob.exp()
        c = -r.token_weight * (1 - p - p * r.logprob)
        loss = -r.token_weight * (1 - p) * r.logprob + 0.1 * r.entropy**2
        return TokenTerms(loss, c, 0.2 * r.entropy)

    hidden, weight, target, w = head()
    logp = torch.log_softmax(hidden @ weight.t(), 1)
    chosen = logp.gather(1, target[:, None]).squeeze(1)
    entropy = -(logp.exp() * logp).sum(1)
    loss = (-w * (1 - chosen.exp()) * chosen + 0.1 * entropy**2).sum()
    expected = torch.autograd.grad(loss, [hidden, weight])
    got = linear_policy_loss(hidden, weight, target, w, surrogate=focal, chunk_rows=6).loss
    assert torch.allclose(got, loss, atol=1e-5)
    for a, b in zip(torch.autograd.grad(got, [hidden, weight]), expected):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_user_class_needs_its_policy_term_alone():
    class Half(Surrogate):
        def policy_term(self, r: TokenRows) -> TokenTerms:
            return TokenTerms(-0.5 * r.token_weight * r.logprob, -0.5 * r.token_weight)

    hidden, weight, target, w = head()
    half = linear_policy_loss(hidden, weight, target, w, surrogate=Half()).loss
    whole = linear_policy_loss(hidden, weight, target, w).loss
    assert torch.allclose(2 * half, whole)


def test_a_user_function_of_the_wrong_form_is_named():
    hidden, weight, target, w = head()
    with pytest.raises(ValueError, match=r"surrogate: expected c as \[20\] torch.float32"):
        linear_policy_loss(
            hidden, weight, target, w, surrogate=lambda r: TokenTerms(r.logprob, r.logprob[:3])
        )
