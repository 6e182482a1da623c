"""Row kernels on CUDA tensors as one Triton kernel, one program per row.

For float32, bfloat16 and float16 tiles. The statistics read a row once; the gradient reads it
(again) and writes it. Configurations are fixed: a tuner would run beside a live engine. With
TRITON_INTERPRET=1 the kernel takes CPU tensors (tests).
"""

import torch
import triton
import triton.language as tl

from nsr_fast.kernels.rows import RowGrad, RowStats, RowTile
from nsr_fast.kernels.sums_triton import (
    IS_INTERPRETED,
    LOG2E,
    LOWEST,
    distance,
    one_minus_exp,
    raise_top,
    soft_cap,
    store_stats,
)

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


def reason_unavailable(device: torch.device | None = None) -> str | None:
    """None when this backend can work on `device` (any device when None), else the reason."""
    wanted = "cpu" if IS_INTERPRETED else "cuda"
    if device is not None and device.type != wanted:
        return f"works on {wanted} tensors, not on {device}"
    if not IS_INTERPRETED and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return None


def launch(tile: RowTile, stats: RowStats | None, grad: RowGrad | None) -> None:
    """Fill stats, write the gradient, in one kernel."""
    rows, vocab = tile.logits.shape
    with torch.cuda.device_of(tile.logits):
        row_kernel[(rows,)](
            logits_ptr=tile.logits,
            target_ptr=tile.target,
            lse_ptr=getattr(grad, "lse", None),
            entropy_ptr=getattr(grad, "entropy", None),
            c_ptr=getattr(grad, "c", None),
            e_ptr=getattr(grad, "e", None),
            outputs_ptr=getattr(stats, "logprob", None),  # the other four rows follow it
            greedy_ptr=getattr(stats, "greedy", None),
            stride_row=tile.stride,
            vocab=vocab,
            inv_temp=1.0 / tile.temperature,
            softcap=tile.softcap or 0.0,
            HAS_STATS=stats is not None,
            HAS_GRAD=grad is not None,
            HAS_E=getattr(grad, "e", None) is not None,
            HAS_SOFTCAP=tile.softcap is not None,
            **(LARGE if vocab >= 4096 else SMALL),
        )
