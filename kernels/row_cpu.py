"""Row operations on CPU tensors through nsr_fast._cpu (C++, one row per OpenMP thread).

Same signatures and meaning as kernels/reference.py, for float32 and bfloat16 tiles. A tile is read
once for the statistics, read and written once for the gradient. `isa` forces an instruction set
(tests); "auto" takes the fastest this CPU runs.
"""

import torch
from torch import Tensor

from nsr_fast.kernels.reference import RowStats

try:
    from nsr_fast import _cpu
except ImportError as error:
    _cpu, _import_error = None, str(error)

_TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}


def reason_unavailable(device: torch.device | None = None) -> str | None:
    """None when this backend can work on `device` (any device when None), else the reason."""
    if _cpu is None:
        return f"nsr_fast._cpu is not built ({_import_error})"
    if device is not None and device.type != "cpu":
        return f"works on CPU tensors, not on {device}"
    return None


def instruction_sets() -> list[str]:
    """What this CPU can run of the compiled kernels, fastest first."""
    return _cpu.isas()


def row_stats(
    logits: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    isa: str = "auto",
) -> RowStats:
    """RowStats [R] of a tile of logits [R, V]; see kernels/reference.py."""
    stats, addresses = _empty_stats(logits.shape[0])
    _cpu.row_stats(_tile(logits, target, temperature, softcap), addresses, isa)
    return stats


def row_grad_(
    logits: Tensor,
    target: Tensor,
    lse: Tensor,
    entropy: Tensor,
    c: Tensor,
    e: Tensor | None,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    isa: str = "auto",
) -> None:
    """Overwrite logits [R, V] with dL/dlogits; see kernels/reference.py."""
    rows = [_vector("lse", lse, logits), _vector("entropy", entropy, logits)]
    rows += [_vector("c", c, logits), None if e is None else _vector("e", e, logits)]
    addresses = [0 if row is None else row.data_ptr() for row in rows]
    _cpu.row_grad(_tile(logits, target, temperature, softcap), *addresses, isa)


def row_stats_grad_(
    logits: Tensor,
    target: Tensor,
    c: Tensor,
    e: Tensor | None,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    isa: str = "auto",
) -> RowStats:
    """row_stats and row_grad_ in one pass over each row while it is in cache."""
    stats, addresses = _empty_stats(logits.shape[0])
    c = _vector("c", c, logits)
    e = None if e is None else _vector("e", e, logits)
    tile = _tile(logits, target, temperature, softcap)
    _cpu.row_stats_grad(tile, addresses, c.data_ptr(), 0 if e is None else e.data_ptr(), isa)
    return stats


def _empty_stats(rows: int) -> tuple[RowStats, list[int]]:
    floats = torch.empty(5, rows).unbind(0)
    greedy = torch.empty(rows, dtype=torch.bool)
    logprob, entropy, lse, sum_p2, sum_p2_logp = floats
    stats = RowStats(logprob, entropy, lse, greedy, sum_p2, sum_p2_logp)
    return stats, [*(row.data_ptr() for row in floats), greedy.data_ptr()]


def _tile(logits: Tensor, target: Tensor, temperature: float, softcap: float | None):
    if logits.dtype not in _TYPE_CODES:
        raise ValueError(
            f"logits: expected float32 or bfloat16 for backend 'cpu', got {logits.dtype}; "
            "use backend='reference' for other dtypes"
        )
    if logits.dim() != 2 or (logits.stride(1) != 1 and logits.shape[1] > 1):
        raise ValueError(f"logits: expected [R, V] with unit stride along V, got {logits.stride()}")
    rows, vocab = logits.shape
    if target.shape != (rows,) or target.dtype != torch.int64 or not target.is_contiguous():
        raise ValueError(f"target: expected contiguous [{rows}] int64, got {_text(target)}")
    if rows and not 0 <= int(target.min()) <= int(target.max()) < vocab:
        bounds = f"[{int(target.min())}, {int(target.max())}]"
        raise ValueError(f"target: expected values in [0, {vocab}), got {bounds}")
    return _cpu.Tile(
        logits=logits.data_ptr(),
        rows=rows,
        vocab=vocab,
        stride=logits.stride(0) if rows > 1 else vocab,
        type=_TYPE_CODES[logits.dtype],
        target=target.data_ptr(),
        temperature=temperature,
        softcap=softcap or 0.0,
        num_threads=torch.get_num_threads(),
    )


def _vector(name: str, x: Tensor, logits: Tensor) -> Tensor:
    if x.shape != (logits.shape[0],) or x.device.type != "cpu":
        raise ValueError(f"{name}: expected [{logits.shape[0]}] on cpu, got {_text(x)}")
    return x.to(torch.float32).contiguous()


def _text(x: Tensor) -> str:
    return f"{list(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"
