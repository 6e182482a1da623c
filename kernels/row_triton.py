"""Row operations on CUDA tensors as one Triton kernel, one program per row.

Same signatures and meaning as kernels/reference.py, for float32, bfloat16 and float16 tiles. The
statistics read a row once; the gradient reads it (again) and writes it. Configurations are fixed: a
tuner would run beside a live engine. With TRITON_INTERPRET=1 the kernel takes CPU tensors (tests).
"""

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsr_fast.kernels.reference import RowStats
from nsr_fast.kernels.sums_triton import (
    LOG2E,
    LOWEST,
    distance,
    one_minus_exp,
    raise_top,
    soft_cap,
    store_stats,
)
from nsr_fast.kernels.tile_cuda import check_tile, row_stride, row_vector

# Fusing a * b + c is Triton's default up to 3.9 only, so it is named.
LARGE = {"BLOCK_V": 4096, "num_warps": 16, "enable_fp_fusion": True}
SMALL = {"BLOCK_V": 1024, "num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def _load(row_ptr, column, vocab, softcap, HAS_SOFTCAP: tl.constexpr):
    z = tl.load(row_ptr + column, mask=column < vocab, other=-float("inf")).to(tl.float32)
    if HAS_SOFTCAP:
        z = tl.where(column < vocab, soft_cap(z, softcap), -float("inf"))
    return z  # [BLOCK_V]


# Reads V (statistics) + V (gradient) elements, writes V; exponentials are computed again, not kept.
@triton.jit
def row_kernel(
    logits_ptr,
    target_ptr,
    lse_ptr,
    entropy_ptr,
    c_ptr,
    e_ptr,
    outputs_ptr,  # [5, R]
    greedy_ptr,
    stride_row,
    vocab,
    inv_temp,
    softcap,
    HAS_STATS: tl.constexpr,
    HAS_GRAD: tl.constexpr,
    HAS_E: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * stride_row
    target = tl.load(target_ptr + row)
    is_valid = (target >= 0) & (target < vocab)
    lane = tl.arange(0, BLOCK_V)
    base, log_sum, entropy = 0.0, 0.0, 0.0
    if HAS_STATS:
        # Loaded before the barriers of the reductions: a fast warp may overwrite it after them.
        z_target = tl.load(row_ptr + target, mask=is_valid, other=float("nan")).to(tl.float32)
        if HAS_SOFTCAP:
            z_target = soft_cap(z_target, softcap)
        scale = inv_temp * LOG2E
        top = -float("inf")
        s = tl.zeros([BLOCK_V], tl.float32)
        t = tl.zeros([BLOCK_V], tl.float32)
        q = tl.zeros([BLOCK_V], tl.float32)
        r = tl.zeros([BLOCK_V], tl.float32)
        for start in range(0, vocab, BLOCK_V):
            z = _load(row_ptr, start + lane, vocab, softcap, HAS_SOFTCAP)
            higher = tl.maximum(top, tl.max(z, axis=0))
            s, t, q, r = raise_top(s, t, q, r, distance(top, higher, scale))
            top = higher
            d = (z - tl.where(top == -float("inf"), 0.0, top)) * scale
            p = tl.exp2(d)
            d = tl.maximum(d, LOWEST)
            s += p
            t += p * d
            q += p * p
            r += p * p * d
        s, t, q, r = tl.sum(s, axis=0), tl.sum(t, axis=0), tl.sum(q, axis=0), tl.sum(r, axis=0)
        num_rows = tl.num_programs(0)
        store_stats(
            outputs_ptr, greedy_ptr, row, num_rows, row >= 0, top, s, t, q, r, z_target, inv_temp
        )
        is_empty = s == 0.0
        base = tl.where(is_empty, 0.0, top)
        log_sum = tl.where(is_empty, 0.0, tl.log(tl.where(is_empty, 1.0, s)))
        entropy = tl.where(is_empty, 0.0, log_sum - t / (tl.where(is_empty, 1.0, s) * LOG2E))
    elif HAS_GRAD:
        log_sum = tl.load(lse_ptr + row)
        log_sum = tl.where(log_sum == -float("inf"), 0.0, log_sum)
        entropy = tl.load(entropy_ptr + row)
    if HAS_GRAD:
        c = tl.where(is_valid, tl.load(c_ptr + row) * inv_temp, float("nan"))
        e = 0.0
        if HAS_E:
            e = tl.load(e_ptr + row) * inv_temp
        is_zero = (c == 0.0) & (e == 0.0)
        for start in range(0, vocab, BLOCK_V):
            column = start + lane
            z = _load(row_ptr, column, vocab, softcap, HAS_SOFTCAP)
            log_p = (z - base) * inv_temp - log_sum
            p = tl.exp2(log_p * LOG2E)
            bend = p * (tl.maximum(log_p, LOWEST) + entropy)
            grad = -c * p - e * bend
            if (target >= start) & (target < start + BLOCK_V):
                grad = tl.where(column == target, c * one_minus_exp(log_p) - e * bend, grad)
            if HAS_SOFTCAP:
                grad *= 1.0 - (z / softcap) * (z / softcap)
            grad = tl.where(is_zero, 0.0, grad)
            tl.store(row_ptr + column, grad.to(logits_ptr.dtype.element_ty), mask=column < vocab)


IS_INTERPRETED = not isinstance(row_kernel, triton.runtime.JITFunction)


def reason_unavailable(device: torch.device | None = None) -> str | None:
    """None when this backend can work on `device` (any device when None), else the reason."""
    wanted = "cpu" if IS_INTERPRETED else "cuda"
    if device is not None and device.type != wanted:
        return f"works on {wanted} tensors, not on {device}"
    if not IS_INTERPRETED and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return None


def row_stats(
    logits: Tensor, target: Tensor, *, temperature: float = 1.0, softcap: float | None = None
) -> RowStats:
    """RowStats [R] of a tile of logits [R, V]; see kernels/reference.py."""
    _check(logits, target)
    return _launch(logits, target, {}, temperature, softcap, has_stats=True)


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
    _check(logits, target)
    rows = {"lse": lse, "entropy": entropy, "c": c, "e": e}
    _launch(logits, target, rows, temperature, softcap, has_stats=False)


def row_stats_grad_(
    logits: Tensor,
    target: Tensor,
    c: Tensor,
    e: Tensor | None,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> RowStats:
    """row_stats and row_grad_ in one launch, for c and e known beforehand."""
    _check(logits, target)
    return _launch(logits, target, {"c": c, "e": e}, temperature, softcap, has_stats=True)


def _check(logits: Tensor, target: Tensor) -> None:
    check_tile(logits, target, "triton", device_type="cpu" if IS_INTERPRETED else "cuda")


def _launch(
    logits: Tensor,
    target: Tensor,
    rows: dict[str, Tensor | None],
    temperature: float,
    softcap: float | None,
    *,
    has_stats: bool,
) -> RowStats:
    rows = {k: None if x is None else row_vector(k, x, logits) for k, x in rows.items()}
    num_rows, vocab = logits.shape
    outputs = torch.empty(5 if has_stats else 0, num_rows, device=logits.device)
    greedy = torch.empty(num_rows if has_stats else 0, dtype=torch.bool, device=logits.device)
    if num_rows:
        with on_device(logits):
            row_kernel[(num_rows,)](
                logits_ptr=logits,
                target_ptr=target,
                lse_ptr=rows.get("lse"),
                entropy_ptr=rows.get("entropy"),
                c_ptr=rows.get("c"),
                e_ptr=rows.get("e"),
                outputs_ptr=outputs,
                greedy_ptr=greedy,
                stride_row=row_stride(logits),
                vocab=vocab,
                inv_temp=1.0 / temperature,
                softcap=softcap or 0.0,
                HAS_STATS=has_stats,
                HAS_GRAD="c" in rows,
                HAS_E=rows.get("e") is not None,
                HAS_SOFTCAP=softcap is not None,
                **(LARGE if vocab >= 4096 else SMALL),
            )
    return stats_from(outputs, greedy) if has_stats else None


def stats_from(outputs: Tensor, greedy: Tensor) -> RowStats:
    """RowStats over the rows store_stats writes."""
    logprob, entropy, lse, sum_p2, sum_p2_logp = outputs.unbind(0)
    return RowStats(logprob, entropy, lse, greedy, sum_p2, sum_p2_logp)


def on_device(x: Tensor) -> contextlib.AbstractContextManager:
    """Triton launches on the current device: make it that of x."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
