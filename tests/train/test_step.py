"""The update: normalisation over the minibatch, clipping, the direction of a step."""

import dataclasses

import pytest
import torch
from optimizers import optimizer_of
from policies import tiny
from rollouts import make_rollouts
from transformers import AutoModelForCausalLM

from nsr_fast.model.attention import PACKED_ATTENTION
from nsr_fast.model.batch import hidden_states, minibatches_of, pack
from nsr_fast.objective import Objective
from nsr_fast.train.step import accumulate_gradients, policy_logprobs, update_policy

CPU = torch.device("cpu")
TEMPERATURE = 0.9
ON_POLICY = Objective.w_reinforce(entropy_coef=0.01)  # the weights are those of the rollouts
PLAIN_TERMS = Objective.w_reinforce()
SEVERAL = dataclasses.replace(ON_POLICY, minibatches=2)


def load(folder, dtype=torch.float64):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=PACKED_ATTENTION
    )


def sampler_logprobs(rollouts):
    """As the rollouts hold them, not as packing laid them out."""
    return torch.tensor([x for rollout in rollouts for x in rollout.sampler_logprob])


def gradients(model, batches, old=None, objective=ON_POLICY):
    model.zero_grad()
    accumulate_gradients(model, batches, objective, TEMPERATURE, old)
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("with_ratio", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_gradient_does_not_depend_on_the_split_into_micro_batches(checkpoint, family, with_ratio):
    model = load(checkpoint(family))
    rollouts = make_rollouts([7, 19, 33, 5, 12, 1])

    def for_budget(budget):
        batches = pack(rollouts, budget, CPU)
        old = None
        if with_ratio:  # some tokens clipped, most not
            old = [
                policy_logprobs(model, b, 0.9) - 0.15 * torch.cos(b.target.double())
                for b in batches
            ]
        objective = SEVERAL if with_ratio else ON_POLICY
        return gradients(model, batches, old, objective), len(batches)

    whole, count = for_budget(1000)
    assert count == 1
    for budget in (1, 24, 40):
        split, count = for_budget(budget)
        assert count > 1
        for name, expected in whole.items():
            error = (split[name] - expected).norm() / expected.norm()
            assert error <= 1e-12, (name, budget, float(error))


def full_logits(model, rollouts):
    """(rollout, logprob of its tokens, entropy of every row) over full logits, with a graph."""
    for rollout in rollouts:
        ids = torch.tensor([rollout.prompt.token_ids + rollout.token_ids])
        logits = model(input_ids=ids, use_cache=False, sequence_lengths=(ids.shape[1],)).logits
        table = (logits[0, len(rollout.prompt.token_ids) - 1 : -1] / 0.9).log_softmax(-1)
        chosen = table.gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0]
        yield rollout, chosen, -(table.exp() * table).sum(-1)


def assert_gradients(model, got, loss):
    model.zero_grad()
    loss.backward()
    for name, parameter in model.named_parameters():
        error = (got[name] - parameter.grad).norm() / parameter.grad.norm()
        assert error <= 1e-6, name  # token weights are float32


@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
def test_gradient_equals_autograd_over_full_logits(checkpoint, entropy_coef):
    model = load(checkpoint("qwen2"))
    (batch,) = pack(make_rollouts([7, 3, 5]), 1000, CPU)
    objective = dataclasses.replace(ON_POLICY, entropy_coef=entropy_coef)
    got = gradients(model, [batch], objective=objective)
    total = 0.0
    for rollout, chosen, entropy in full_logits(model, batch.rollouts):
        total = total - rollout.weight * chosen.sum() - entropy_coef * entropy.sum()
    assert_gradients(model, got, total / 15)


@pytest.mark.parametrize("cap", [None, 0.5])
def test_gradient_with_old_logprobs_is_that_of_ppo(checkpoint, cap):
    """max(-w r, -w clip(r, 0.8, 1.5)) with ratios on both sides of either bound and either sign,
    times min(old policy / sampler, cap): sampler logprobs are 0, -1, -2, ..."""
    model = load(checkpoint("qwen2"))
    lengths = [12, 9, 14, 11]
    (batch,) = pack(make_rollouts(lengths), 1000, CPU)
    shift = torch.tensor([-0.7, -0.3, -0.1, 0.1, 0.3, 0.7]).repeat(8)[: sum(lengths)].double()
    old = policy_logprobs(model, batch, 0.9) - shift  # so the ratio is exp(shift)
    objective = dataclasses.replace(SEVERAL, epsilon_high=0.5, importance_sampling_cap=cap)
    got = gradients(model, [batch], [old], objective)
    total, kinds, first = 0.0, set(), 0
    for rollout, chosen, entropy in full_logits(model, batch.rollouts):
        before = old[first : first + len(chosen)]
        first += len(chosen)
        ratio = (chosen - before).exp()
        losses = -rollout.weight * torch.stack([ratio, ratio.clamp(0.8, 1.5)])
        kinds |= {(rollout.weight > 0, bool(r < 0.8), bool(r > 1.5)) for r in ratio}
        trust = torch.ones_like(ratio)
        if cap is not None:
            sampler = torch.tensor(rollout.sampler_logprob, dtype=torch.float64)
            trust = (before - sampler).exp().clamp(max=cap)
            assert trust.min() < 0.5 * cap and (trust == cap).any()
        total = total + (trust * losses.max(dim=0).values - 0.01 * entropy).sum()
    assert len(kinds) == 6
    assert_gradients(model, got, total / sum(lengths))


def test_update_lowers_wrong_and_raises_correct_completions(checkpoint):
    model = load(checkpoint("qwen3"), torch.float32)
    rollouts = make_rollouts([6, 6, 6, 6])
    optimizer = optimizer_of(
        model.parameters(), learning_rate=1e-3, weight_decay=0.0, max_grad_norm=1.0
    )
    (batch,) = pack(rollouts, 1000, CPU)
    before = policy_logprobs(model, batch, 0.9)
    metrics = update_policy(model, optimizer, [[batch]], ON_POLICY, TEMPERATURE)
    change = policy_logprobs(model, batch, 0.9) - before
    assert metrics.steps == 1 and metrics.trained_tokens == 24
    assert metrics.clip_fraction is None  # on-policy
    assert change[batch.token_weight < 0].mean() < 0 < change[batch.token_weight > 0].mean()


def test_minibatches_take_that_many_steps_and_measure_drift_before_the_first(checkpoint):
    model = load(checkpoint("qwen2"), torch.float32)
    rollouts = make_rollouts([5] * 6)
    (batch,) = pack(rollouts, 1000, CPU)
    expected = (policy_logprobs(model, batch, 0.9) - sampler_logprobs(batch.rollouts)).abs()
    optimizer = optimizer_of(
        model.parameters(), learning_rate=1e-2, weight_decay=0.0, max_grad_norm=1.0
    )
    minibatches = minibatches_of(rollouts, 3, 12, CPU)
    metrics = update_policy(model, optimizer, minibatches, SEVERAL, TEMPERATURE)
    assert metrics.steps == optimizer.num_steps == 3
    assert metrics.drift_mean == pytest.approx(float(expected.mean()), rel=1e-5)
    assert metrics.drift_max == pytest.approx(float(expected.max()), rel=1e-5)


def test_importance_sampling_weighs_tokens_by_the_capped_ratio(checkpoint):
    model = load(checkpoint("qwen2"))
    (batch,) = pack(make_rollouts([9, 3]), 1000, CPU)  # sampler logprobs 0, -1, -2, ...
    ratio = (policy_logprobs(model, batch, 0.9) - sampler_logprobs(batch.rollouts)).exp()
    assert ratio.min() < 0.5 < 2.0 < ratio.max()  # both sides of the cap
    capped = Objective.w_reinforce(importance_sampling_cap=2.0)
    got = gradients(model, [batch], objective=capped)
    weighted = dataclasses.replace(batch, token_weight=batch.token_weight * ratio.clamp(max=2.0))
    plain = Objective.w_reinforce()
    for name, expected in gradients(model, [weighted], objective=plain).items():
        assert (got[name] - expected).norm() <= 1e-5 * expected.norm(), name


@pytest.mark.parametrize("family", ["qwen2", "llama"])  # a tied and an untied head
def test_bfloat16_heads_sum_their_gradient_in_float32(checkpoint, family):
    batches = pack(make_rollouts([7, 19, 33, 5]), 40, CPU)
    assert len(batches) > 1
    exact = gradients(load(checkpoint(family)), batches)
    model = load(checkpoint(family), torch.bfloat16)
    found = gradients(model, batches)
    name = "model.embed_tokens.weight" if family == "qwen2" else "lm_head.weight"
    assert found[name].dtype == torch.float32
    error = (found[name].double() - exact[name]).norm() / exact[name].norm()
    assert error < 1e-2


def test_float32_logits_give_the_gradient_of_the_hidden_states_as_they_are():
    """bfloat16 weights whose logits are 40 and more: head and last norm against float64."""
    model = tiny(is_tied=False, dtype=torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight *= 60.0
    (batch,) = pack(make_rollouts([7, 19, 33, 5]), 1000, CPU)
    with torch.no_grad():
        hidden = hidden_states(model, batch).double()
    weight = model.lm_head.weight.detach().double().requires_grad_()
    logits = hidden @ weight.t() / TEMPERATURE
    assert 30 < logits.abs().max() < 60
    logprob = logits.log_softmax(-1).gather(1, batch.target[:, None])[:, 0]
    (expected,) = torch.autograd.grad(
        -(batch.token_weight * logprob).sum() / batch.target.numel(), [weight]
    )

    def error(logits_dtype):
        model.zero_grad()
        (result,) = accumulate_gradients(
            model, [batch], PLAIN_TERMS, TEMPERATURE, logits_dtype=logits_dtype
        )
        before = policy_logprobs(model, batch, TEMPERATURE, logits_dtype=logits_dtype)
        assert torch.equal(result.logprob, before)
        return float((model.lm_head.weight.grad - expected).norm() / expected.norm())

    assert error(torch.float32) < 1e-5 < error(None) / 100
