"""One round's update: weighted rollouts in, new weights out.

    loss = -(1/N) sum_t w_t f(ratio_t)      N = trained tokens of the whole minibatch

so the gradient does not depend on how a minibatch is split into micro-batches. Sequences of weight
0 are not here at all. With one minibatch the update is on-policy and the ratio is 1; with more, it
is clipped to [1 - epsilon, 1 + epsilon_high] (PPO) against the logprobs before the first step.
importance_sampling_cap weighs each token by min(policy / sampler, cap), as a constant.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from nsr_fast.kernels.logprobs import linear_logprobs
from nsr_fast.kernels.policy_loss import PolicyLoss, linear_policy_loss
from nsr_fast.objective.terms import PolicyGradient, PpoClip, Surrogate
from nsr_fast.train.optimizer import PolicyOptimizer
from nsr_fast.train.packing import MicroBatch, TrainSequence, pack, split_minibatches
from nsr_fast.train.policy import hidden_states


@dataclass(frozen=True, slots=True)
class UpdateSettings:
    """What shapes the loss and its passes."""

    temperature: float
    minibatches: int
    epsilon: float
    epsilon_high: float
    importance_sampling_cap: float | None
    entropy_coef: float
    micro_batch_tokens: int


@dataclass(frozen=True, slots=True)
class UpdateMetrics:
    """Means over the trained tokens; drift is |policy - sampler| logprob before the first step."""

    loss: float
    grad_norm: float  # mean over the optimizer steps, before clipping
    entropy_trained: float
    drift_mean: float
    drift_max: float
    trained_tokens: int
    steps: int


def update_policy(
    policy: PreTrainedModel,
    optimizer: PolicyOptimizer,
    sequences: Sequence[TrainSequence],
    settings: UpdateSettings,
) -> UpdateMetrics:
    """Run the optimizer steps of one round over `sequences` (at least one)."""
    minibatches = [
        pack(part, settings.micro_batch_tokens, policy.device)
        for part in split_minibatches(sequences, settings.minibatches)
    ]
    old_logprobs = None
    if len(minibatches) > 1:
        old_logprobs = [
            [policy_logprobs(policy, batch, settings.temperature) for batch in minibatch]
            for minibatch in minibatches
        ]
    losses, grad_norms, entropies, drifts = [], [], [], []
    for index, minibatch in enumerate(minibatches):
        old = old_logprobs[index] if old_logprobs else None
        passes = accumulate_gradients(policy, minibatch, settings, old)
        losses.append(sum(float(result.loss.detach()) for result in passes))
        grad_norms.append(optimizer.step())
        for batch, result, old_logprob in zip(minibatch, passes, old or [None] * len(passes)):
            entropies.append(result.entropy)
            before = result.logprob if old_logprob is None else old_logprob
            drifts.append((before - batch.sampler_logprob).abs())
    drift = torch.cat(drifts)
    return UpdateMetrics(
        loss=sum(losses) / len(losses),
        grad_norm=sum(grad_norms) / len(grad_norms),
        entropy_trained=float(torch.cat(entropies).mean()),
        drift_mean=float(drift.mean()),
        drift_max=float(drift.max()),
        trained_tokens=drift.numel(),
        steps=len(minibatches),
    )


def accumulate_gradients(
    policy: PreTrainedModel,
    minibatch: Sequence[MicroBatch],
    settings: UpdateSettings,
    old_logprobs: Sequence[torch.Tensor] | None = None,
) -> list[PolicyLoss]:
    """Add the minibatch's gradient to every parameter's .grad, one packed pass at a time."""
    num_tokens = sum(batch.target.numel() for batch in minibatch)
    surrogate = _surrogate(settings, is_on_policy=old_logprobs is None)
    results = []
    for index, batch in enumerate(minibatch):
        result = linear_policy_loss(
            hidden_states(policy, batch),
            policy.lm_head.weight,
            batch.target,
            batch.token_weight / num_tokens,
            temperature=settings.temperature,
            surrogate=surrogate,
            old_logprob=old_logprobs[index] if old_logprobs is not None else None,
            sampler_logprob=batch.sampler_logprob,
            entropy_coef=settings.entropy_coef / num_tokens,
            accumulate_into_grad=True,
        )
        result.loss.backward()
        results.append(result)
    return results


@torch.no_grad()
def policy_logprobs(policy: PreTrainedModel, batch: MicroBatch, temperature: float) -> torch.Tensor:
    """The policy's logprob of every loss row's target: [R] float32."""
    hidden = hidden_states(policy, batch)
    head = policy.lm_head.weight
    return linear_logprobs(hidden, head, batch.target, temperature=temperature).logprob


def _surrogate(settings: UpdateSettings, *, is_on_policy: bool) -> Surrogate | None:
    cap = settings.importance_sampling_cap
    if not is_on_policy:
        return PpoClip(settings.epsilon, settings.epsilon_high, sampler_cap=cap)
    return None if cap is None else PolicyGradient(sampler_cap=cap)
