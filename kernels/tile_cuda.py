"""What both GPU row backends check and allocate: one tile of logits [R, V] and its row vectors.

Targets are not looked at (that would wait for the device): the kernels give NaN to a row whose
target lies outside [0, V).
"""

import torch
from torch import Tensor

from nsr_fast.kernels.checks import text
from nsr_fast.kernels.reference import RowStats

DTYPE_CODES = {
    torch.float32: 0,
    torch.bfloat16: 1,
    torch.float16: 2,
}  # enum Dtype in csrc/cuda/row.h


def check_tile(logits: Tensor, target: Tensor, backend: str, *, device_type: str = "cuda") -> None:
    """ValueError unless logits is a [R, V] tile with unit stride and target its [R] int64."""
    if logits.device.type != device_type:
        raise ValueError(
            f"logits: expected a {device_type} tensor for backend {backend!r}, got {text(logits)}"
        )
    if logits.dtype not in DTYPE_CODES:
        raise ValueError(
            f"logits: expected float32, bfloat16 or float16 for backend {backend!r}, "
            f"got {logits.dtype}; use backend='reference' for other dtypes"
        )
    if logits.dim() != 2 or logits.shape[1] == 0 or (logits.stride(1) != 1 < logits.shape[1]):
        got = f"{text(logits)} with strides {logits.stride()}"
        raise ValueError(f"logits: expected [R, V] with unit stride along V, got {got}")
    rows = logits.shape[0]
    is_vector = target.shape == (rows,) and target.dtype == torch.int64 and target.is_contiguous()
    if not is_vector or target.device != logits.device:
        want = f"contiguous [{rows}] int64 on {logits.device}"
        raise ValueError(f"target: expected {want}, got {text(target)}")


def row_stride(logits: Tensor) -> int:
    """Elements from one row to the next; a single row may have any stride."""
    return logits.stride(0) if logits.shape[0] > 1 else logits.shape[1]


def row_vector(name: str, x: Tensor, logits: Tensor) -> Tensor:
    """x [R] as the kernels read it: float32 and contiguous."""
    if x.shape != (logits.shape[0],) or x.device != logits.device:
        want = f"[{logits.shape[0]}] on {logits.device}"
        raise ValueError(f"{name}: expected {want}, got {text(x)}")
    return x.to(torch.float32).contiguous()


def empty_stats(logits: Tensor) -> RowStats:
    """RowStats to be filled by a kernel."""
    rows, device = logits.shape[0], logits.device
    logprob, entropy, lse, sum_p2, sum_p2_logp = torch.empty(5, rows, device=device).unbind(0)
    greedy = torch.empty(rows, dtype=torch.bool, device=device)
    return RowStats(logprob, entropy, lse, greedy, sum_p2, sum_p2_logp)
