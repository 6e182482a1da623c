"""The update: normalisation over the minibatch, clipping, the direction of a step."""

import dataclasses

import pytest
import torch
from sequences import make_sequences
from transformers import AutoModelForCausalLM

from nsr_fast.model.attention import PACKED_ATTENTION
from nsr_fast.train.optimizer import PolicyOptimizer
from nsr_fast.model.batch import pack
from nsr_fast.train.step import (
    UpdateSettings,
    accumulate_gradients,
    policy_logprobs,
    update_policy,
)

CPU = torch.device("cpu")
SETTINGS = UpdateSettings(
    temperature=0.9,
    minibatches=1,
    epsilon=0.2,
    epsilon_high=0.2,
    importance_sampling_cap=None,
    entropy_coef=0.01,
    micro_batch_tokens=1000,
)


def load(folder, dtype=torch.float64):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=PACKED_ATTENTION
    )


def sampler_logprobs(sequences):
    """As the sequences hold them, not as packing laid them out."""
    return torch.tensor([x for sequence in sequences for x in sequence.sampler_logprob])


def gradients(model, batches, old=None, settings=SETTINGS):
    model.zero_grad()
    accumulate_gradients(model, batches, settings, old)
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("with_ratio", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_gradient_does_not_depend_on_the_split_into_micro_batches(checkpoint, family, with_ratio):
    model = load(checkpoint(family))
    sequences = make_sequences([7, 19, 33, 5, 12, 1])

    def for_budget(budget):
        batches = pack(sequences, budget, CPU)
        old = None
        if with_ratio:  # some tokens clipped, most not
            old = [
                policy_logprobs(model, b, 0.9) - 0.15 * torch.cos(b.target.double())
                for b in batches
            ]
        return gradients(model, batches, old), len(batches)

    whole, count = for_budget(1000)
    assert count == 1
    for budget in (1, 24, 40):
        split, count = for_budget(budget)
        assert count > 1
        for name, expected in whole.items():
            error = (split[name] - expected).norm() / expected.norm()
            assert error <= 1e-12, (name, budget, float(error))


def full_logits(model, sequences):
    """(sequence, logprob of its tokens, entropy of every row) over full logits, with a graph."""
    for sequence in sequences:
        ids = torch.tensor([sequence.prompt_ids + sequence.completion_ids])
        logits = model(input_ids=ids, use_cache=False, sequence_lengths=(ids.shape[1],)).logits
        table = (logits[0, len(sequence.prompt_ids) - 1 : -1] / 0.9).log_softmax(-1)
        chosen = table.gather(1, torch.tensor(sequence.completion_ids)[:, None])[:, 0]
        yield sequence, chosen, -(table.exp() * table).sum(-1)


def assert_gradients(model, got, loss):
    model.zero_grad()
    loss.backward()
    for name, parameter in model.named_parameters():
        error = (got[name] - parameter.grad).norm() / parameter.grad.norm()
        assert error <= 1e-6, name  # token weights are float32


@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
def test_gradient_equals_autograd_over_full_logits(checkpoint, entropy_coef):
    model = load(checkpoint("qwen2"))
    (batch,) = pack(make_sequences([7, 3, 5]), 1000, CPU)
    settings = dataclasses.replace(SETTINGS, entropy_coef=entropy_coef)
    got = gradients(model, [batch], settings=settings)
    total = 0.0
    for sequence, chosen, entropy in full_logits(model, batch.sequences):
        total = total - sequence.weight * chosen.sum() - entropy_coef * entropy.sum()
    assert_gradients(model, got, total / 15)


@pytest.mark.parametrize("cap", [None, 0.5])
def test_gradient_with_old_logprobs_is_that_of_ppo(checkpoint, cap):
    """max(-w r, -w clip(r, 0.8, 1.5)) with ratios on both sides of either bound and either sign,
    times min(old policy / sampler, cap): sampler logprobs are 0, -1, -2, ..."""
    model = load(checkpoint("qwen2"))
    lengths = [12, 9, 14, 11]
    (batch,) = pack(make_sequences(lengths), 1000, CPU)
    shift = torch.tensor([-0.7, -0.3, -0.1, 0.1, 0.3, 0.7]).repeat(8)[: sum(lengths)].double()
    old = policy_logprobs(model, batch, 0.9) - shift  # so the ratio is exp(shift)
    settings = dataclasses.replace(
        SETTINGS, epsilon=0.2, epsilon_high=0.5, importance_sampling_cap=cap, entropy_coef=0.01
    )
    got = gradients(model, [batch], [old], settings)
    total, kinds, first = 0.0, set(), 0
    for sequence, chosen, entropy in full_logits(model, batch.sequences):
        before = old[first : first + len(chosen)]
        first += len(chosen)
        ratio = (chosen - before).exp()
        losses = -sequence.weight * torch.stack([ratio, ratio.clamp(0.8, 1.5)])
        kinds |= {(sequence.weight > 0, bool(r < 0.8), bool(r > 1.5)) for r in ratio}
        trust = torch.ones_like(ratio)
        if cap is not None:
            sampler = torch.tensor(sequence.sampler_logprob, dtype=torch.float64)
            trust = (before - sampler).exp().clamp(max=cap)
            assert trust.min() < 0.5 * cap and (trust == cap).any()
        total = total + (trust * losses.max(dim=0).values - 0.01 * entropy).sum()
    assert len(kinds) == 6
    assert_gradients(model, got, total / sum(lengths))


def test_update_lowers_wrong_and_raises_correct_completions(checkpoint):
    model = load(checkpoint("qwen3"), torch.float32)
    sequences = make_sequences([6, 6, 6, 6])
    optimizer = PolicyOptimizer(
        model.parameters(), learning_rate=1e-3, weight_decay=0.0, max_grad_norm=1.0
    )
    (batch,) = pack(sequences, 1000, CPU)
    before = policy_logprobs(model, batch, 0.9)
    metrics = update_policy(model, optimizer, sequences, SETTINGS)
    change = policy_logprobs(model, batch, 0.9) - before
    assert metrics.steps == 1 and metrics.trained_tokens == 24
    assert change[batch.token_weight < 0].mean() < 0 < change[batch.token_weight > 0].mean()


def test_minibatches_take_that_many_steps_and_measure_drift_before_the_first(checkpoint):
    model = load(checkpoint("qwen2"), torch.float32)
    sequences = make_sequences([5] * 6)
    (batch,) = pack(sequences, 1000, CPU)
    expected = (policy_logprobs(model, batch, 0.9) - sampler_logprobs(batch.sequences)).abs()
    optimizer = PolicyOptimizer(
        model.parameters(), learning_rate=1e-2, weight_decay=0.0, max_grad_norm=1.0
    )
    settings = dataclasses.replace(SETTINGS, minibatches=3, micro_batch_tokens=12)
    metrics = update_policy(model, optimizer, sequences, settings)
    assert metrics.steps == optimizer.num_steps == 3
    assert metrics.drift_mean == pytest.approx(float(expected.mean()), rel=1e-5)
    assert metrics.drift_max == pytest.approx(float(expected.max()), rel=1e-5)


def test_importance_sampling_weighs_tokens_by_the_capped_ratio(checkpoint):
    model = load(checkpoint("qwen2"))
    (batch,) = pack(make_sequences([9, 3]), 1000, CPU)  # sampler logprobs 0, -1, -2, ...
    ratio = (policy_logprobs(model, batch, 0.9) - sampler_logprobs(batch.sequences)).exp()
    assert ratio.min() < 0.5 < 2.0 < ratio.max()  # both sides of the cap
    settings = dataclasses.replace(SETTINGS, entropy_coef=0.0, importance_sampling_cap=2.0)
    got = gradients(model, [batch], settings=settings)
    weighted = dataclasses.replace(batch, token_weight=batch.token_weight * ratio.clamp(max=2.0))
    plain = dataclasses.replace(settings, importance_sampling_cap=None)
    for name, expected in gradients(model, [weighted], settings=plain).items():
        assert (got[name] - expected).norm() <= 1e-5 * expected.norm(), name


@pytest.mark.parametrize("family", ["qwen2", "llama"])  # a tied and an untied head
def test_bfloat16_heads_sum_their_gradient_in_float32(checkpoint, family):
    batches = pack(make_sequences([7, 19, 33, 5]), 40, CPU)
    assert len(batches) > 1
    exact = gradients(load(checkpoint(family)), batches)
    model = load(checkpoint(family), torch.bfloat16)
    found = gradients(model, batches)
    name = "model.embed_tokens.weight" if family == "qwen2" else "lm_head.weight"
    assert found[name].dtype == torch.float32
    error = (found[name].double() - exact[name]).norm() / exact[name].norm()
    assert error < 1e-2
