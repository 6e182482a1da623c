"""The loop over chunks of active rows of both linear operations; logits exist one tile at a time.

per chunk: gather hidden rows -> logits tile -> row kernel (statistics, dlogits in place)
           -> hidden gradient rows, weight and bias gradients added in the buffer's dtype
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nsr_fast.kernels.backends import row_kernels
from nsr_fast.kernels.matmul import bias_grad_, hidden_grad, logits_into, weight_grad_

# Bytes of one logits tile. CPU: 256 rows at a 150k vocabulary keep the products near their full
# rate; CUDA: 2048 rows of bfloat16 keep them compute-bound.
_TILE_BYTES = {"cpu": 150 << 20, "cuda": 640 << 20}
_ROW_MULTIPLE = {"cpu": 16, "cuda": 128}


@dataclass(frozen=True, slots=True)
class Head:
    """The vocabulary projection and how its logits are read."""

    weight: Tensor  # [V, D]
    bias: Tensor | None  # [V]
    temperature: float
    softcap: float | None
    logits_dtype: torch.dtype
    backend: str  # resolved name
    chunk_rows: int | None

    def scaling(self) -> dict[str, float | None]:
        return {"temperature": self.temperature, "softcap": self.softcap}


@dataclass(frozen=True, slots=True)
class Gradients:
    """Buffers to fill, None where no gradient is wanted. accumulate adds to weight and bias."""

    hidden: Tensor | None  # [T, D], zero in the rows that are not active
    weight: Tensor | None  # [V, D]
    bias: Tensor | None  # [V]
    accumulate: bool = False

    @property
    def are_wanted(self) -> bool:
        return self.hidden is not None or self.weight is not None or self.bias is not None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows [start, stop) of the active ones: their places in T, targets, and their logits tile."""

    start: int
    stop: int
    rows: Tensor | slice
    hidden: Tensor  # [C, D]
    target: Tensor  # [C]
    logits: Tensor  # [C, V], dlogits after the row kernel


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
    total = hidden.shape[0] if active is None else active.numel()
    vocab = head.weight.shape[0]
    size = head.chunk_rows
    if size is None:
        size = default_chunk_rows(total, vocab, head.logits_dtype, hidden.device)
    tile = hidden.new_empty(min(size, total), vocab, dtype=head.logits_dtype)
    for start in range(0, total, size):
        stop = min(start + size, total)
        rows = slice(start, stop) if active is None else active[start:stop]
        part = hidden[rows]
        logits = tile[: stop - start]
        logits_into(logits, part, head.weight, head.bias)
        yield Chunk(start, stop, rows, part, target[rows], logits)


def add_gradients(head: Head, chunk: Chunk, gradients: Gradients) -> None:
    """Turn a chunk's dlogits into the gradients that are wanted."""
    overwrite = chunk.start == 0 and not gradients.accumulate
    if gradients.hidden is not None:
        part = hidden_grad(chunk.logits, head.weight)
        if isinstance(chunk.rows, slice):
            gradients.hidden[chunk.rows] = part
        else:
            gradients.hidden.index_copy_(0, chunk.rows, part.to(gradients.hidden.dtype))
    if gradients.weight is not None:
        weight_grad_(gradients.weight, chunk.logits, chunk.hidden, overwrite=overwrite)
    if gradients.bias is not None:
        bias_grad_(gradients.bias, chunk.logits, overwrite=overwrite)


def clear_unused(gradients: Gradients, num_rows: int, active: Tensor | None) -> None:
    """Zero what the loop will not write: inactive hidden rows; everything when no row is active."""
    if gradients.hidden is not None and active is not None:
        gradients.hidden.zero_()
    if (num_rows if active is None else active.numel()) == 0 and not gradients.accumulate:
        for buffer in (gradients.weight, gradients.bias):
            if buffer is not None:
                buffer.zero_()


@dataclass(frozen=True, slots=True)
class RowFunctions:
    """The three row operations of kernels/reference.py; row_stats_grad_ may be None."""

    row_stats: Callable
    row_grad_: Callable
    row_stats_grad_: Callable | None


def row_functions(head: Head) -> RowFunctions:
    """Those of the head's backend."""
    module = row_kernels(head.backend)
    return RowFunctions(module.row_stats, module.row_grad_, module.row_stats_grad_)
