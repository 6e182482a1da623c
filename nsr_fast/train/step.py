"""The round's update: weighted rollouts in, new weights out.

    loss = -sum_t s_t w_t f(ratio_t)    s_t = 1 / (tokens of the whole minibatch), or what else the
                                        objective's denominator gives the response of t

so the gradient does not depend on how a minibatch is split into micro-batches. Rollouts of weight 0
are not here at all. With one minibatch the update is on-policy and the ratio is 1; with more, the
objective's terms see the logprobs before the first step. A pass out of memory is survived:
train/passes.py.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from math import isfinite

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
from nsr_fast.train.passes import PassBudget, run_passes
from nsr_fast.train.tally import Drift, StepGuard, Tally, UpdateMetrics


@dataclass(frozen=True, slots=True)
class Places:
    """Where an update keeps what it makes."""

    gradients: OwnGradients | HostGradients
    activations: ActivationOffload | None  # None: with the trunk


def update_policy(
    policy: Policy,
    optimizer: PolicyOptimizer,
    minibatches: Sequence[Sequence[MicroBatch]],
    objective: Objective,
    temperature: float,
    vocab: int | None = None,
    activations: ActivationOffload | None = None,
    budget: PassBudget | None = None,
    before_step: Callable[[], None] = lambda: None,
    guard: StepGuard | None = None,
    logits_dtype: torch.dtype | None = None,
) -> UpdateMetrics:
    """Run the optimizer steps of one round, one for each of `minibatches` (at least one).

    An error before the first step is raised, and no weight has changed; one after it is handed over
    as `failure`, with the steps until then. A step whose loss or gradient is not finite is not
    taken and handed over in `skipped`.

    vocab, logits_dtype   of the head, see Head
    activations   takes what the trunk keeps for its backward pass; None: it stays on the device
    budget        tokens of a pass from the first failure on, lowered by each; None: those of the
                  largest
    before_step   called when a step is about to change the weights
    Raises        GuardStop when a single sequence does not fit into memory, and the guard's
    """
    budget = budget or PassBudget(max(sum(b.sequence_lengths) for m in minibatches for b in m))
    guard, tally, drop = guard or StepGuard(), Tally(), optimizer.gradients.clear
    old = None
    if "old" in objective.needs:
        reading = {"temperature": temperature, "vocab": vocab, "logits_dtype": logits_dtype}
        old = _old_logprobs(policy, minibatches, budget, **reading)
    places = Places(optimizer.gradients, activations)
    head = _head(policy, temperature, vocab, logits_dtype)
    for index, minibatch in enumerate(minibatches, 1):
        gradient = _gradient_pass(policy, minibatch, objective, head, old, places)
        try:
            batches, passes = run_passes(policy, minibatch, gradient, budget, drop)
            if index == 1:
                packed = [batches] if old is None else minibatches
                tally.drift = _drift(packed, passes, old, temperature)
                if tally.drift and not guard.allows(tally.drift):
                    drop()
                    break
        except Exception as error:
            drop()
            if not tally.losses:
                raise
            tally.failure = error
            break
        loss = sum(float(result.loss.detach()) for result in passes)
        what, value = "loss", loss
        if isfinite(loss):
            before_step()
            what, value = "gradient norm", optimizer.step()
        if isfinite(value):
            guard.taken()
            tally.add(loss, value, passes)
            continue
        drop()
        tally.skipped[index] = [rollout for batch in batches for rollout in batch.rollouts]
        tally.failure = guard.non_finite(index, what, value)
        if tally.failure:
            break
    return tally.metrics(is_clipping=old is not None)


def _old_logprobs(
    policy: Policy,
    minibatches: Sequence[Sequence[MicroBatch]],
    budget: PassBudget,
    **reading,
) -> dict[int, Tensor]:
    """Every rollout's logprobs before the first step, by its id()."""
    found = {}
    of_batch = partial(policy_logprobs, policy, **reading)
    for minibatch in minibatches:
        found |= _by_rollout(*run_passes(policy, minibatch, of_batch, budget, lambda: None))
    return found


def _drift(
    minibatches: Sequence[Sequence[MicroBatch]],
    passes: Sequence[PolicyLoss],
    old: Mapping[int, Tensor] | None,
    temperature: float,
) -> Drift | None:
    """Over the tokens with a finite logprob (the others' loss is not finite either); None: none.

    passes   of the first minibatch, as it was packed in the end
    """
    batches = [batch for minibatch in minibatches for batch in minibatch]
    if old is None:
        policy = [result.logprob for result in passes]
    else:
        policy = [_of_batch(old, batch) for batch in batches]
    drift = torch.cat(policy) - torch.cat([batch.sampler_logprob for batch in batches])
    drift = drift[drift.isfinite()].abs()
    if not drift.numel():
        return None
    largest = torch.stack([result.lse.abs().max() for result in passes]).max()
    return Drift(float(drift.mean()), float(drift.max()), float(largest) * temperature)


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
    logits_dtype: torch.dtype | None = None,
) -> list[PolicyLoss]:
    """Add the minibatch's gradient to `gradients`, one packed pass at a time; None: to every
    parameter's .grad."""
    old = None if old_logprobs is None else _by_rollout(minibatch, old_logprobs)
    places = Places(gradients or OwnGradients(()), activations)
    head = _head(policy, temperature, vocab, logits_dtype)
    gradient = _gradient_pass(policy, minibatch, objective, head, old, places)
    return [gradient(batch) for batch in minibatch]


def _gradient_pass(
    policy: Policy,
    minibatch: Sequence[MicroBatch],
    objective: Objective,
    head: Head,
    old: Mapping[int, Tensor] | None,
    places: Places,
) -> Callable[[MicroBatch], PolicyLoss]:
    """The pass that adds its share of the minibatch's gradient, however the minibatch is packed."""
    rollouts = [rollout for batch in minibatch for rollout in batch.rollouts]
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    is_mean, total = objective.denominator == "token_mean", sum(lengths)
    scales = dict(zip(map(id, rollouts), objective.scales(lengths), strict=True))
    entropy_coef = objective.entropy_coef / total if is_mean else 0.0  # else in the terms
    options = PassOptions(entropy_coef=entropy_coef, accumulate_into_grad=True)

    def one_pass(batch: MicroBatch) -> PolicyLoss:
        with places.activations.of(policy) if places.activations else nullcontext():
            hidden = hidden_states(policy, batch)
        weight, scale = batch.token_weight / total, None
        if not is_mean:
            scale = _of_responses(scales, batch)
            weight, scale = batch.token_weight * scale, scale.to(batch.target.device)
        tokens = TokenInputs(
            hidden,
            batch.target,
            weight,
            scale=scale,
            old_logprob=None if old is None else _of_batch(old, batch),
            sampler_logprob=batch.sampler_logprob,
        )
        with places.gradients.head_pass(policy.lm_head.weight):
            result = policy_pass(head, tokens, objective.terms, options)
        result.loss.backward()
        return result

    return one_pass


def _by_rollout(batches: Sequence[MicroBatch], logprobs: Sequence[Tensor]) -> dict[int, Tensor]:
    """Every rollout's logprobs by its id(): they outlive the packing."""
    found = {}
    for batch, logprob in zip(batches, logprobs, strict=True):
        parts = logprob.split([len(rollout.token_ids) for rollout in batch.rollouts])
        found |= {id(rollout): part for rollout, part in zip(batch.rollouts, parts)}
    return found


def _of_responses(scales: Mapping[int, float], batch: MicroBatch) -> Tensor:
    """[R] on the CPU, as token_weight."""
    counts = torch.tensor([len(rollout.token_ids) for rollout in batch.rollouts])
    values = torch.tensor([scales[id(rollout)] for rollout in batch.rollouts])
    return values.repeat_interleave(counts)


def _of_batch(by_rollout: Mapping[int, Tensor], batch: MicroBatch) -> Tensor:
    return torch.cat([by_rollout[id(rollout)] for rollout in batch.rollouts])


@torch.no_grad()
def policy_logprobs(
    policy: Policy,
    batch: MicroBatch,
    temperature: float,
    vocab: int | None = None,
    logits_dtype: torch.dtype | None = None,
) -> Tensor:
    """The policy's logprob of every loss row's target: [R] float32."""
    hidden = hidden_states(policy, batch)
    head = _head(policy, temperature, vocab, logits_dtype)
    return linear_logprobs(
        hidden,
        head.valid[0],
        batch.target,
        temperature=temperature,
        logits_dtype=head.logits_dtype,
    ).logprob


def _head(
    policy: Policy, temperature: float, vocab: int | None, logits_dtype: torch.dtype | None
) -> Head:
    return Head(
        policy.lm_head.weight, temperature=temperature, vocab=vocab, logits_dtype=logits_dtype
    )
