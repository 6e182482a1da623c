"""Trained rollouts, packed without padding into micro-batches of a token budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nsr_fast.types import Rollout


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Packed sequences. T tokens in all, R of them completion tokens (the loss rows)."""

    rollouts: tuple[Rollout, ...]
    sequence_lengths: tuple[int, ...]
    input_ids: Tensor  # [1, T] int64
    position_ids: Tensor  # [1, T] int64, restarts at 0 with every sequence
    row: Tensor  # [R] int64: the position whose hidden state predicts `target`
    target: Tensor  # [R] int64
    token_weight: Tensor  # [R] float32 on the CPU, signed, not normalised
    sampler_logprob: Tensor  # [R] float32
    entropy_share: Tensor | None = None  # [R] float32; None: 0 in every row


def minibatches_of(
    rollouts: Sequence[Rollout], num_minibatches: int, token_budget: int, device: torch.device
) -> list[list[MicroBatch]]:
    """Cut into at most `num_minibatches` parts whose sizes differ by one at most, each packed; none
    is empty."""
    count = min(num_minibatches, len(rollouts))
    bounds = [len(rollouts) * i // count for i in range(count + 1)] if count else []
    return [pack(rollouts[a:b], token_budget, device) for a, b in zip(bounds, bounds[1:])]


def pack(rollouts: Sequence[Rollout], token_budget: int, device: torch.device) -> list[MicroBatch]:
    """Longest first, so that memory peaks at once; a sequence over the budget goes alone."""
    batches: list[list[Rollout]] = []
    tokens = 0
    for rollout in sorted(rollouts, key=_length, reverse=True):
        if not batches or tokens + _length(rollout) > token_budget:
            batches.append([])
            tokens = 0
        batches[-1].append(rollout)
        tokens += _length(rollout)
    return [_micro_batch(batch, device) for batch in batches]


def hidden_states(policy: nn.Module, batch: MicroBatch) -> Tensor:
    """Hidden state before the head at every loss row: [R, D]. No logits are made."""
    outputs = policy.model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        sequence_lengths=batch.sequence_lengths,
        use_cache=False,
    )
    return outputs.last_hidden_state[0].index_select(0, batch.row)


def _length(rollout: Rollout) -> int:
    return len(rollout.prompt.token_ids) + len(rollout.token_ids)


def _micro_batch(rollouts: Sequence[Rollout], device: torch.device) -> MicroBatch:
    ids, positions, rows, targets, weights, sampler, shares = [], [], [], [], [], [], []
    for rollout in rollouts:
        first = len(ids) + len(rollout.prompt.token_ids) - 1  # the last prompt token predicts
        rows.extend(range(first, first + len(rollout.token_ids)))
        ids.extend(rollout.prompt.token_ids + rollout.token_ids)
        positions.extend(range(_length(rollout)))
        targets.extend(rollout.token_ids)
        weights.extend(_token_weights(rollout))
        sampler.extend(rollout.sampler_logprob)
        shares.extend([rollout.entropy_share] * len(rollout.token_ids))

    def tensor(values: list, dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)

    return MicroBatch(
        rollouts=tuple(rollouts),
        sequence_lengths=tuple(map(_length, rollouts)),
        input_ids=tensor(ids, torch.int64)[None],
        position_ids=tensor(positions, torch.int64)[None],
        row=tensor(rows, torch.int64),
        target=tensor(targets, torch.int64),
        token_weight=torch.tensor(weights, dtype=torch.float32),
        sampler_logprob=tensor(sampler, torch.float32),
        entropy_share=tensor(shares, torch.float32) if any(shares) else None,
    )


def _token_weights(rollout: Rollout) -> Sequence[float]:
    """One a completion token."""
    weight, count = rollout.weight, len(rollout.token_ids)
    if not isinstance(weight, tuple):
        return [weight] * count
    if len(weight) != count:
        raise ValueError(f"weight: expected a number or {count}, one a token, got {len(weight)}")
    return weight
