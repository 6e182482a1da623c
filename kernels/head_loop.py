"""The loop over chunks of active rows of both linear operations; logits exist one tile at a time.

per chunk: gather hidden rows -> logits tile -> row kernel (statistics, dlogits in place)
           -> hidden gradient rows, weight and bias gradients added in the buffer's dtype
policy_rows takes statistics first, then c and e from the loss's terms, then dlogits; without terms
(REINFORCE) c and e are known beforehand, and one row kernel does it all while a row is in cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nsr_fast.kernels.head import (
    SIDES,
    Head,
    TermsFn,
    TokenInputs,
    TokenRows,
    TokenTerms,
)
from nsr_fast.kernels.matmul import bias_grad_, hidden_grad, logits_into, weight_grad_
from nsr_fast.kernels.rows import RowStats

ROW_NAMES = (
    *("logprob", "entropy", "lse", "sum_p2", "sum_p2_logp", "greedy"),
    *("loss", "c", "e", "is_clipped"),
)
# Bytes of one logits tile. CPU: 256 rows at a 150k vocabulary keep the products near their full
# rate; CUDA: 2048 rows of bfloat16 keep them compute-bound.
_TILE_BYTES = {"cpu": 150 << 20, "cuda": 640 << 20}
_ROW_MULTIPLE = {"cpu": 16, "cuda": 128}


@dataclass(frozen=True, slots=True, eq=False)
class Gradients:
    """Buffers to fill, None where no gradient is wanted. accumulate adds to weight and bias."""

    hidden: Tensor | None  # [T, D], zero in the rows that are not active
    weight: Tensor | None  # [V, D]
    bias: Tensor | None  # [V]
    accumulate: bool = False

    @property
    def are_wanted(self) -> bool:
        return self.hidden is not None or self.weight is not None or self.bias is not None


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some active rows: their places in T, hidden rows, targets and logits tile."""

    is_first: bool
    rows: Tensor | slice
    hidden: Tensor  # [C, D]
    target: Tensor  # [C]
    logits: Tensor  # [C, v], dlogits after the row kernel

    def write(self, into: Tensor, part: Tensor, *, axis: int) -> None:
        """part, one entry a row of the chunk along `axis`, to its place in `into`."""
        if isinstance(self.rows, slice):
            into.narrow(axis, self.rows.start, self.rows.stop - self.rows.start).copy_(part)
        else:
            into.index_copy_(axis, self.rows, part.to(into.dtype))


def policy_rows(
    head: Head,
    tokens: TokenInputs,
    gradients: Gradients,
    terms: TermsFn | None = None,
    entropy_coef: float = 0.0,
) -> Tensor:
    """The rows of ROW_NAMES [10, T], 0 where token_weight is 0; fills the gradient buffers.

    A target out of range (which only the CPU checks beforehand) makes its row NaN.
    """
    hidden, target = tokens.hidden, tokens.target
    rows = hidden.new_zeros(len(ROW_NAMES), hidden.shape[0], dtype=head.dtype)
    if hidden.is_meta:  # shapes alone
        return rows
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        active = active_rows(tokens.token_weight != 0, hidden.device)
        clear_unused(head, gradients, hidden.shape[0], active)
        is_bad = (target < 0) | (target >= head.classes)
        weights = tokens.token_weight.to(hidden.device, head.dtype).masked_fill(is_bad, torch.nan)
        sides = [getattr(tokens, name) for name in SIDES]
        for chunk in chunks(head, hidden, target.masked_fill(is_bad, 0), active):
            side = [None if x is None else x[chunk.rows].to(head.dtype) for x in sides]
            inputs = [weights[chunk.rows], *side]
            if tokens.mask_logits is not None:
                tokens.mask_logits(chunk.rows, chunk.logits)
            part = _one_chunk(head, chunk, inputs, terms, entropy_coef, gradients)
            chunk.write(rows, part, axis=1)
    return rows


def _one_chunk(
    head: Head,
    chunk: Chunk,
    inputs: list[Tensor | None],
    terms: TermsFn | None,
    entropy_coef: float,
    gradients: Gradients,
) -> Tensor:
    """Statistics, loss terms and gradients of one chunk; returns its [10, C] rows."""
    weight, tile = inputs[0], (chunk.logits, chunk.target)
    if terms is None and gradients.are_wanted and head.shard is None:
        e = torch.full_like(weight, -entropy_coef) if entropy_coef else None
        stats = head.row_pass_(*tile, -weight, e)
        found = TokenTerms(-weight * stats.logprob, -weight, e)
    else:
        stats = head.row_pass_(*tile)
        found = _terms(stats, inputs, terms, entropy_coef)
        if gradients.are_wanted:
            head.row_pass_(*tile, found.c, found.e, saved=(stats.lse, stats.entropy))
    if gradients.are_wanted:
        add_gradients(head, chunk, gradients)
    loss = found.loss - entropy_coef * stats.entropy if entropy_coef else found.loss
    zeros = torch.zeros_like(loss)
    last = [zeros if x is None else x.to(loss.dtype) for x in (found.e, found.is_clipped)]
    head_rows = [getattr(stats, name) for name in ROW_NAMES[:5]]
    return torch.stack([*head_rows, stats.greedy.to(loss.dtype), loss, found.c, *last])


def _terms(
    stats: RowStats, inputs: list[Tensor | None], terms: TermsFn | None, entropy_coef: float
) -> TokenTerms:
    """The terms of the loss with the entropy bonus's share added to e."""
    weight = inputs[0]
    if terms is None:
        found = TokenTerms(-weight * stats.logprob, -weight)
    else:
        found = terms(TokenRows(stats.logprob, stats.entropy, *inputs))
        if not isinstance(found, TokenTerms):
            raise ValueError(f"surrogate: expected TokenTerms, got {type(found).__name__}")
        found.check(weight)
    if not entropy_coef:
        return found
    e = found.e if found.e is not None else torch.zeros_like(weight)
    return TokenTerms(found.loss, found.c, e - entropy_coef, found.is_clipped)


def default_chunk_rows(num_rows: int, vocab: int, dtype: torch.dtype, device: torch.device) -> int:
    """Rows of one tile: as many as its byte budget holds, in nearly equal chunks."""
    kind = device.type if device.type in _TILE_BYTES else "cpu"
    multiple = _ROW_MULTIPLE[kind]
    most = max(_TILE_BYTES[kind] // (vocab * dtype.itemsize) // multiple * multiple, multiple)
    num_chunks = max(-(-num_rows // most), 1)
    even = -(-num_rows // num_chunks)
    return max(min(-(-even // multiple) * multiple, num_rows), 1)


def active_rows(is_active: Tensor, device: torch.device) -> Tensor | None:
    """Indices of the active rows, None when all are. Waits for the GPU unless given on the CPU."""
    rows = is_active.nonzero().squeeze(1)
    if rows.numel() == is_active.numel():
        return None
    return rows.to(device)


def chunks(head: Head, hidden: Tensor, target: Tensor, active: Tensor | None) -> Iterator[Chunk]:
    """Yield each chunk with its logits computed; the tile is reused, so finish with one first."""
    weight, bias = head.valid
    total, vocab = hidden.shape[0] if active is None else active.numel(), weight.shape[0]
    size = head.chunk_rows
    if size is None:
        size = default_chunk_rows(total, vocab, head.logits_dtype, hidden.device)
    tile = hidden.new_empty(min(size, total), vocab, dtype=head.logits_dtype)
    for start in range(0, total, size):
        stop = min(start + size, total)
        rows = slice(start, stop) if active is None else active[start:stop]
        part = hidden[rows]
        logits = tile[: stop - start]
        logits_into(logits, part, weight, bias)
        yield Chunk(start == 0, rows, part, target[rows], logits)


def add_gradients(head: Head, chunk: Chunk, gradients: Gradients) -> None:
    """Turn a chunk's dlogits into the gradients that are wanted."""
    overwrite, vocab = chunk.is_first and not gradients.accumulate, chunk.logits.shape[1]
    if gradients.hidden is not None:
        chunk.write(gradients.hidden, hidden_grad(chunk.logits, head.valid[0]), axis=0)
    if gradients.weight is not None:
        part = gradients.weight[:vocab]
        weight_grad_(part, chunk.logits, chunk.hidden, overwrite=overwrite)
    if gradients.bias is not None:
        bias_grad_(gradients.bias[:vocab], chunk.logits, overwrite=overwrite)


def clear_unused(head: Head, gradients: Gradients, num_rows: int, active: Tensor | None) -> None:
    """Zero what the loop will not write: inactive hidden rows, the head's padding; weight and bias
    when no row is active."""
    if gradients.hidden is not None and active is not None:
        gradients.hidden.zero_()
    if gradients.accumulate:
        return
    is_empty = (num_rows if active is None else active.numel()) == 0
    for buffer in (gradients.weight, gradients.bias):
        if buffer is not None:
            buffer[0 if is_empty else head.valid[0].shape[0] :].zero_()
