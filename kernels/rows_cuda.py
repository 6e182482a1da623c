"""Row kernels on CUDA tensors through nsr_fast._cuda (CUDA C++ in csrc/cuda).

For float32, bfloat16 and float16 tiles. On sm_90 and later a thread-block cluster holds a row in
shared memory: each element is read once and written once. Elsewhere, and for a gradient from saved
statistics, one block per row. tile.force "block" or "cluster" forces a path (tests, benchmarks).
"""

from functools import cache

import torch

from nsr_fast.kernels.rows import RowGrad, RowStats, RowTile

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


def launch(tile: RowTile, stats: RowStats | None, grad: RowGrad | None) -> str:
    """Fill stats, write the gradient; returns the path taken, which tile.force may name.

    Work of one stream runs in order, so the caller may free temporaries at once.
    """
    device = tile.logits.device
    place = {"device": device.index, "stream": torch.cuda.current_stream(device).cuda_stream}
    native = tile.native(_cuda.Tile, "dtype", **place)
    if grad is None:
        return _cuda.row_stats(native, stats.addresses(), tile.force)
    if stats is not None:
        pair = grad.addresses("c", "e")
        return _cuda.row_stats_grad(native, stats.addresses(), *pair, tile.force)
    _cuda.row_grad(native, *grad.addresses("lse", "entropy", "c", "e"))
    return "block"
