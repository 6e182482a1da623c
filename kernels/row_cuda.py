"""Row operations on CUDA tensors through nsr_fast._cuda (CUDA C++ in csrc/cuda).

Same signatures and meaning as kernels/reference.py, for float32, bfloat16 and float16 tiles. On
sm_90 and later a thread-block cluster holds a row in shared memory: each element is read once and
written once. Elsewhere one block per row: two reads and one write. `path` forces "block" or
"cluster" (tests, benchmarks).
"""

from functools import cache

import torch
from torch import Tensor

from nsr_fast.kernels.reference import RowStats
from nsr_fast.kernels.tile_cuda import (
    DTYPE_CODES,
    check_tile,
    empty_stats,
    row_stride,
    row_vector,
)

try:
    from nsr_fast import _cuda
except ImportError as error:
    _cuda, _import_error = None, str(error)


def reason_unavailable(device: torch.device | None = None) -> str | None:
    """None when this backend can work on `device` (any device when None), else the reason."""
    if _cuda is None:
        return f"nsr_fast._cuda is not built, nvcc makes it at install ({_import_error})"
    if device is not None and device.type != "cuda":
        return f"works on CUDA tensors, not on {device}"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    index = 0 if device is None or device.index is None else device.index
    return _reason_for(index)


@cache
def _reason_for(index: int) -> str | None:
    try:
        _cuda.device_count()
    except RuntimeError as error:
        return str(error)
    major, minor = torch.cuda.get_device_capability(index)
    built = _cuda.architectures()
    if not runs_on(10 * major + minor, built):
        return (
            f"nsr_fast._cuda is built for sm_{', sm_'.join(map(str, built))}, not {major}.{minor}"
        )
    return None


def runs_on(capability: int, architectures: list[int]) -> bool:
    """Machine code runs on the same major version; PTX of the last one on all that came later."""
    same_major = [a for a in architectures if a // 10 == capability // 10 and a <= capability]
    return bool(same_major) or capability >= max(architectures)


def row_stats(
    logits: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    path: str = "auto",
) -> RowStats:
    """RowStats [R] of a tile of logits [R, V]; see kernels/reference.py."""
    check_tile(logits, target, "cuda")
    stats = empty_stats(logits)
    if len(target):
        _cuda.row_stats(_tile(logits, target, temperature, softcap), _addresses(stats), path)
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
) -> None:
    """Overwrite logits [R, V] with dL/dlogits; see kernels/reference.py."""
    check_tile(logits, target, "cuda")
    rows = [row_vector("lse", lse, logits), row_vector("entropy", entropy, logits)]
    rows += [row_vector("c", c, logits), None if e is None else row_vector("e", e, logits)]
    if len(target):
        addresses = [0 if row is None else row.data_ptr() for row in rows]
        _cuda.row_grad(_tile(logits, target, temperature, softcap), *addresses)


def row_stats_grad_(
    logits: Tensor,
    target: Tensor,
    c: Tensor,
    e: Tensor | None,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    path: str = "auto",
) -> RowStats:
    """row_stats and row_grad_ in one kernel, for c and e known beforehand."""
    check_tile(logits, target, "cuda")
    c = row_vector("c", c, logits)
    e = None if e is None else row_vector("e", e, logits)
    stats = empty_stats(logits)
    if len(target):
        addresses = [c.data_ptr(), 0 if e is None else e.data_ptr()]
        tile = _tile(logits, target, temperature, softcap)
        _cuda.row_stats_grad(tile, _addresses(stats), *addresses, path)
    return stats


def _tile(logits: Tensor, target: Tensor, temperature: float, softcap: float | None):
    """Address, shape, device and current stream: work of one stream runs in order, so the caller
    may free temporaries at once."""
    device = logits.device
    return _cuda.Tile(
        logits=logits.data_ptr(),
        rows=logits.shape[0],
        vocab=logits.shape[1],
        stride=row_stride(logits),
        dtype=DTYPE_CODES[logits.dtype],
        target=target.data_ptr(),
        temperature=temperature,
        softcap=softcap or 0.0,
        device=device.index,
        stream=torch.cuda.current_stream(device).cuda_stream,
    )


def _addresses(stats: RowStats) -> list[int]:
    names = ("logprob", "entropy", "lse", "sum_p2", "sum_p2_logp", "greedy")
    return [getattr(stats, name).data_ptr() for name in names]
