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


def test_gradient_equals_autograd_over_full_logits(checkpoint):
    model = load(checkpoint("qwen2"))
    (batch,) = pack(make_sequences([7, 3, 5]), 1000, CPU)
    settings = dataclasses.replace(SETTINGS, entropy_coef=0.0)
    got = gradients(model, [batch], settings=settings)
    model.zero_grad()
    total = 0.0
    for sequence in batch.sequences:
        ids = torch.tensor([sequence.prompt_ids + sequence.completion_ids])
        logits = model(input_ids=ids, use_cache=False, sequence_lengths=(ids.shape[1],)).logits
        logprob = (logits[0, len(sequence.prompt_ids) - 1 : -1] / 0.9).log_softmax(-1)
        chosen = logprob.gather(1, torch.tensor(sequence.completion_ids)[:, None])
        total = total - sequence.weight * chosen.sum()
    (total / batch.target.numel()).backward()
    for name, parameter in model.named_parameters():
        error = (got[name] - parameter.grad).norm() / parameter.grad.norm()
        assert error <= 1e-6, name  # token weights are float32


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
    expected = (policy_logprobs(model, batch, 0.9) - batch.sampler_logprob).abs()
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
    ratio = (policy_logprobs(model, batch, 0.9) - batch.sampler_logprob).exp()
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
