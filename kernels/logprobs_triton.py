"""Statistics of a linear head's rows by tiles that never leave the chip: no logits in memory.

    z_tv = hidden_t . weight_v (+ bias_v), softcap, temperature -> RowStats of every token
Grid: token tiles x vocabulary splits. A program keeps running sums over its split and writes six
numbers per token; a second kernel merges the splits in order (deterministic, no locks, no atomics).
Products accumulate in float32 and are not rounded to the input dtype, as with logits_dtype=float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsr_fast.kernels.head import Head, check_rows
from nsr_fast.kernels.rows import RowStats
from nsr_fast.kernels.sums_triton import (
    IS_INTERPRETED,
    LOG2E,
    LOWEST,
    distance,
    raise_top,
    soft_cap,
    store_stats,
)

# float32 operands go through the tensor cores as three tf32 products (error near 1e-6).
HALF = {"BLOCK_T": 128, "BLOCK_V": 128, "BLOCK_D": 64, "num_warps": 8, "num_stages": 3}
FULL = {"BLOCK_T": 64, "BLOCK_V": 64, "BLOCK_D": 32, "num_warps": 4, "num_stages": 2}
COMBINE = {"BLOCK_T": 128, "num_warps": 4, "enable_fp_fusion": True}
NUM_PARTS = 6  # top, s, t, q, r, target logit


# Reads [BLOCK_T, D] of hidden and [split, D] of weight per program, the latter shared through L2
# by the token tiles, which are the fast axis of the grid. Writes 24 bytes per token and split.
@triton.jit
def split_kernel(
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    target_ptr,
    parts_ptr,  # [num_splits, 6, T]
    num_tokens,
    vocab,
    width,
    split,
    scale,  # log2(e) / temperature
    softcap,
    HAS_BIAS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    is_token = token < num_tokens
    target = tl.load(target_ptr + token, mask=is_token, other=-1)
    part = tl.program_id(1)
    depth = tl.arange(0, BLOCK_D)
    hidden_row = hidden_ptr + token.to(tl.int64)[:, None] * width  # [BLOCK_T, 1]
    top = tl.full([BLOCK_T], -float("inf"), tl.float32)
    s = tl.zeros([BLOCK_T], tl.float32)
    t = tl.zeros([BLOCK_T], tl.float32)
    q = tl.zeros([BLOCK_T], tl.float32)
    r = tl.zeros([BLOCK_T], tl.float32)
    z_target = tl.zeros([BLOCK_T], tl.float32)
    for start in range(part * split, tl.minimum((part + 1) * split, vocab), BLOCK_V):
        column = start + tl.arange(0, BLOCK_V)
        is_column = column < vocab
        weight_row = weight_ptr + column.to(tl.int64)[None, :] * width  # [1, BLOCK_V]
        z = tl.zeros([BLOCK_T, BLOCK_V], tl.float32)
        for first in range(0, width, BLOCK_D):
            d = first + depth
            h_mask = is_token[:, None] & (d < width)[None, :]
            w_mask = is_column[None, :] & (d < width)[:, None]
            h = tl.load(hidden_row + d[None, :], mask=h_mask, other=0.0)  # [BLOCK_T, BLOCK_D]
            w = tl.load(weight_row + d[:, None], mask=w_mask, other=0.0)  # [BLOCK_D, BLOCK_V]
            if UPCAST:
                h, w = h.to(tl.float32), w.to(tl.float32)
            z = tl.dot(h, w, z, input_precision="tf32x3")
        if HAS_BIAS:
            z += tl.load(bias_ptr + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
        if HAS_SOFTCAP:
            z = soft_cap(z, softcap)
        z = tl.where(is_column[None, :], z, -float("inf"))
        is_target = column[None, :] == target[:, None]
        z_target += tl.sum(tl.where(is_target, z, 0.0), axis=1)
        higher = tl.maximum(top, tl.max(z, axis=1))
        s, t, q, r = raise_top(s, t, q, r, distance(top, higher, scale))
        top = higher
        z = (z - tl.where(top == -float("inf"), 0.0, top)[:, None]) * scale
        p = tl.exp2(z)
        z = tl.maximum(z, LOWEST)
        s += tl.sum(p, axis=1)
        t += tl.sum(p * z, axis=1)
        q += tl.sum(p * p, axis=1)
        r += tl.sum(p * p * z, axis=1)
    parts_ptr += part.to(tl.int64) * 6 * num_tokens
    tl.store(parts_ptr + token, top, mask=is_token)
    tl.store(parts_ptr + num_tokens + token, s, mask=is_token)
    tl.store(parts_ptr + 2 * num_tokens + token, t, mask=is_token)
    tl.store(parts_ptr + 3 * num_tokens + token, q, mask=is_token)
    tl.store(parts_ptr + 4 * num_tokens + token, r, mask=is_token)
    tl.store(parts_ptr + 5 * num_tokens + token, z_target, mask=is_token)


# Reads 24 bytes per token and split, writes 21 per token.
@triton.jit
def combine_kernel(
    parts_ptr,  # [num_splits, 6, T]
    target_ptr,
    outputs_ptr,  # [5, T]
    greedy_ptr,
    num_tokens,
    vocab,
    num_splits,
    inv_temp,
    BLOCK_T: tl.constexpr,
):
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    is_token = token < num_tokens
    scale = inv_temp * LOG2E
    top = tl.full([BLOCK_T], -float("inf"), tl.float32)
    s = tl.zeros([BLOCK_T], tl.float32)
    t = tl.zeros([BLOCK_T], tl.float32)
    q = tl.zeros([BLOCK_T], tl.float32)
    r = tl.zeros([BLOCK_T], tl.float32)
    z_target = tl.zeros([BLOCK_T], tl.float32)
    for _ in range(num_splits):
        new_top = tl.load(parts_ptr + token, mask=is_token, other=0.0)
        new_s = tl.load(parts_ptr + num_tokens + token, mask=is_token, other=0.0)
        new_t = tl.load(parts_ptr + 2 * num_tokens + token, mask=is_token, other=0.0)
        new_q = tl.load(parts_ptr + 3 * num_tokens + token, mask=is_token, other=0.0)
        new_r = tl.load(parts_ptr + 4 * num_tokens + token, mask=is_token, other=0.0)
        z_target += tl.load(parts_ptr + 5 * num_tokens + token, mask=is_token, other=0.0)
        parts_ptr += 6 * num_tokens
        higher = tl.maximum(top, new_top)
        s, t, q, r = raise_top(s, t, q, r, distance(top, higher, scale))
        new_s, new_t, new_q, new_r = raise_top(
            new_s, new_t, new_q, new_r, distance(new_top, higher, scale)
        )
        s, t, q, r, top = s + new_s, t + new_t, q + new_q, r + new_r, higher
    target = tl.load(target_ptr + token, mask=is_token, other=0)
    z_target = tl.where((target >= 0) & (target < vocab), z_target, float("nan"))
    store_stats(
        outputs_ptr, greedy_ptr, token, num_tokens, is_token, top, s, t, q, r, z_target, inv_temp
    )


def linear_stats(head: Head, hidden: Tensor, target: Tensor) -> RowStats:
    """RowStats [T] of the head's logits, in float32 whatever logits_dtype says.

    head     of backend "triton"
    hidden   [T, D]  float32 | bfloat16 | float16, contiguous
    target   [T]     int64; one outside [0, V) gives NaN on a GPU
    Memory   24 T ceil(V / 4096) bytes beside the results (1024 instead of 4096 below 1024 tokens)
    Raises   ValueError on shape, dtype or device
    """
    check_rows(hidden, target)
    head.check_hidden(hidden)
    stats = RowStats.empty(len(target), torch.float32, hidden.device)
    if len(target):
        with torch.cuda.device_of(hidden):
            _launch(head, hidden, target.contiguous(), stats)
    return stats


def _launch(head: Head, hidden: Tensor, target: Tensor, stats: RowStats) -> None:
    (weight, bias), (tokens, width) = head.valid, hidden.shape
    vocab = weight.shape[0]
    split = 4096 if tokens >= 1024 else 1024
    num_splits = triton.cdiv(vocab, split)
    parts = torch.empty(num_splits, NUM_PARTS, tokens, device=hidden.device)
    shared = {"target_ptr": target, "parts_ptr": parts, "num_tokens": tokens, "vocab": vocab}
    config = FULL if hidden.dtype == torch.float32 else HALF
    split_kernel[(triton.cdiv(tokens, config["BLOCK_T"]), num_splits)](
        hidden_ptr=hidden,
        weight_ptr=weight,
        bias_ptr=bias,
        width=width,
        split=split,
        scale=LOG2E.value / head.temperature,
        softcap=head.softcap or 0.0,
        HAS_BIAS=bias is not None,
        HAS_SOFTCAP=head.softcap is not None,
        UPCAST=IS_INTERPRETED,
        enable_fp_fusion=True,
        **config,
        **shared,
    )
    combine_kernel[(triton.cdiv(tokens, COMBINE["BLOCK_T"]),)](
        outputs_ptr=stats.logprob,  # the other four rows follow it
        greedy_ptr=stats.greedy,
        num_splits=num_splits,
        inv_temp=1.0 / head.temperature,
        **COMBINE,
        **shared,
    )
