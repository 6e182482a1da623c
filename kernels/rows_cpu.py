"""Row kernels on CPU tensors through nsr_fast._cpu (C++, one row per OpenMP thread).

For float32 and bfloat16 tiles. A tile is read once for the statistics, read and written once for
the gradient; one pass for both while the row is in cache.
"""

import torch

from nsr_fast.kernels.rows import RowGrad, RowStats, RowTile

try:
    from nsr_fast import _cpu
except ImportError as error:
    _cpu, _import_error = None, str(error)


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


def launch(tile: RowTile, stats: RowStats | None, grad: RowGrad | None) -> None:
    """Fill stats, write the gradient; tile.force names an instruction set."""
    native = tile.native(_cpu.Tile, "type", num_threads=torch.get_num_threads())
    if grad is None:
        _cpu.row_stats(native, stats.addresses(), tile.force)
    elif stats is None:
        _cpu.row_grad(native, *grad.addresses("lse", "entropy", "c", "e"), tile.force)
    else:
        _cpu.row_stats_grad(native, stats.addresses(), *grad.addresses("c", "e"), tile.force)
