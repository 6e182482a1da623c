"""Trained completions, packed without padding into micro-batches of a token budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """One rollout that carries a gradient."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    weight: float  # token weight of every completion token, before normalisation; never 0
    sampler_logprob: tuple[float, ...]  # one per completion token

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Packed sequences. T tokens in all, R of them completion tokens (the loss rows)."""

    sequences: tuple[TrainSequence, ...]
    sequence_lengths: tuple[int, ...]
    input_ids: torch.Tensor  # [1, T] int64
    position_ids: torch.Tensor  # [1, T] int64, restarts at 0 with every sequence
    row: torch.Tensor  # [R] int64: the position whose hidden state predicts `target`
    target: torch.Tensor  # [R] int64
    token_weight: torch.Tensor  # [R] float32 on the CPU, signed, not normalised
    sampler_logprob: torch.Tensor  # [R] float32


def split_minibatches(
    sequences: Sequence[TrainSequence], num_minibatches: int
) -> list[list[TrainSequence]]:
    """Cut into at most `num_minibatches` parts whose sizes differ by one at most; none is empty."""
    count = min(num_minibatches, len(sequences))
    bounds = [len(sequences) * i // count for i in range(count + 1)] if count else []
    return [list(sequences[a:b]) for a, b in zip(bounds, bounds[1:])]


def pack(
    sequences: Sequence[TrainSequence], token_budget: int, device: torch.device
) -> list[MicroBatch]:
    """Longest first, so that memory peaks at once; a sequence over the budget goes alone."""
    batches: list[list[TrainSequence]] = []
    tokens = 0
    for sequence in sorted(sequences, key=len, reverse=True):
        if not batches or tokens + len(sequence) > token_budget:
            batches.append([])
            tokens = 0
        batches[-1].append(sequence)
        tokens += len(sequence)
    return [_micro_batch(batch, device) for batch in batches]


def _micro_batch(sequences: Sequence[TrainSequence], device: torch.device) -> MicroBatch:
    ids, positions, rows, targets, weights, sampler = [], [], [], [], [], []
    for sequence in sequences:
        first = len(ids) + len(sequence.prompt_ids) - 1  # the last prompt token predicts
        rows.extend(range(first, first + len(sequence.completion_ids)))
        ids.extend(sequence.prompt_ids + sequence.completion_ids)
        positions.extend(range(len(sequence)))
        targets.extend(sequence.completion_ids)
        weights.extend([sequence.weight] * len(sequence.completion_ids))
        sampler.extend(sequence.sampler_logprob)

    def tensor(values: list, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)

    return MicroBatch(
        sequences=tuple(sequences),
        sequence_lengths=tuple(len(sequence) for sequence in sequences),
        input_ids=tensor(ids, torch.int64)[None],
        position_ids=tensor(positions, torch.int64)[None],
        row=tensor(rows, torch.int64),
        target=tensor(targets, torch.int64),
        token_weight=torch.tensor(weights, dtype=torch.float32),
        sampler_logprob=tensor(sampler, torch.float32),
    )
