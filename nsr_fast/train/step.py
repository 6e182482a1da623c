"""The round's update: weighted rollouts in, new weights out.

    loss = -(1/N) sum_t w_t f(ratio_t)      N = the objective's denominator of the whole minibatch

so the gradient does not depend on how a minibatch is split into micro-batches. Rollouts of weight 0
are not here at all. With one minibatch the update is on-policy and the ratio is 1; with more, the
objective's terms see the logprobs before the first step.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from nsr_fast.kernels.head import Head, TokenInputs
from nsr_fast.kernels.logprobs import linear_logprobs
from nsr_fast.kernels.policy_loss import PassOptions, PolicyLoss, policy_pass
from nsr_fast.memory.offload import ActivationOffload
from nsr_fast.model.batch import MicroBatch, hidden_states
from nsr_fast.model.load import Policy
from nsr_fast.objective import Objective
from nsr_fast.train.host_gradients import HostGradients, OwnGradients
from nsr_fast.train.optimizer import PolicyOptimizer


@dataclass(frozen=True, slots=True)
class UpdateMetrics:
    """Means over the trained tokens; drift is |policy - sampler| logprob before the first step."""

    loss: float
    grad_norm: float  # mean over the optimizer steps, before clipping
    entropy_trained: float
    drift_mean: float
    drift_max: float
    clip_fraction: float | None  # None: on-policy, nothing can be clipped
    trained_tokens: int
    steps: int


def update_policy(
    policy: Policy,
    optimizer: PolicyOptimizer,
    minibatches: Sequence[Sequence[MicroBatch]],
    objective: Objective,
    temperature: float,
    vocab: int | None = None,
    activations: ActivationOffload | None = None,
) -> UpdateMetrics:
    """Run the optimizer steps of one round, one for each of `minibatches` (at least one).

    vocab         valid rows of the head, see Head; None: all
    activations   takes what the trunk keeps for its backward pass; None: it stays on the device
    """
    old_logprobs = None
    if "old" in objective.needs:
        old_logprobs = [
            [policy_logprobs(policy, batch, temperature, vocab) for batch in minibatch]
            for minibatch in minibatches
        ]
    losses, grad_norms, entropies, drifts, clipped = [], [], [], [], []
    for index, minibatch in enumerate(minibatches):
        old = old_logprobs[index] if old_logprobs else None
        passes = accumulate_gradients(
            policy,
            minibatch,
            objective,
            temperature,
            old,
            vocab,
            gradients=optimizer.gradients,
            activations=activations,
        )
        losses.append(sum(float(result.loss.detach()) for result in passes))
        grad_norms.append(optimizer.step())
        for batch, result, old_logprob in zip(minibatch, passes, old or [None] * len(passes)):
            entropies.append(result.entropy)
            clipped.append(result.stats.is_clipped)
            before = result.logprob if old_logprob is None else old_logprob
            drifts.append((before - batch.sampler_logprob).abs())
    drift = torch.cat(drifts)
    return UpdateMetrics(
        loss=sum(losses) / len(losses),
        grad_norm=sum(grad_norms) / len(grad_norms),
        entropy_trained=float(torch.cat(entropies).mean()),
        drift_mean=float(drift.mean()),
        drift_max=float(drift.max()),
        clip_fraction=float(torch.cat(clipped).mean()) if old_logprobs else None,
        trained_tokens=drift.numel(),
        steps=len(minibatches),
    )


def accumulate_gradients(
    policy: Policy,
    minibatch: Sequence[MicroBatch],
    objective: Objective,
    temperature: float,
    old_logprobs: Sequence[Tensor] | None = None,
    vocab: int | None = None,
    *,
    gradients: OwnGradients | HostGradients | None = None,
    activations: ActivationOffload | None = None,
) -> list[PolicyLoss]:
    """Add the minibatch's gradient to `gradients`, one packed pass at a time; None: to every
    parameter's .grad."""
    gradients = gradients or OwnGradients(())
    denominator = objective.denominator(sum(batch.target.numel() for batch in minibatch))
    head = Head(policy.lm_head.weight, temperature=temperature, vocab=vocab)
    entropy_coef = objective.entropy_coef / denominator
    options = PassOptions(entropy_coef=entropy_coef, accumulate_into_grad=True)
    results = []
    for index, batch in enumerate(minibatch):
        with activations.of(policy) if activations else nullcontext():
            hidden = hidden_states(policy, batch)
        tokens = TokenInputs(
            hidden,
            batch.target,
            batch.token_weight / denominator,
            old_logprob=old_logprobs[index] if old_logprobs is not None else None,
            sampler_logprob=batch.sampler_logprob,
        )
        with gradients.head_pass(policy.lm_head.weight):
            result = policy_pass(head, tokens, objective.terms, options)
        result.loss.backward()
        results.append(result)
    return results


@torch.no_grad()
def policy_logprobs(
    policy: Policy, batch: MicroBatch, temperature: float, vocab: int | None = None
) -> Tensor:
    """The policy's logprob of every loss row's target: [R] float32."""
    hidden = hidden_states(policy, batch)
    head = policy.lm_head.weight[:vocab]
    return linear_logprobs(hidden, head, batch.target, temperature=temperature).logprob
