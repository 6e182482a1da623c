"""One AdamW step on a state of 3 bytes as one Triton kernel: a row of a tile is a block of 256.

Same signature and bits as kernels/adamw_8bit_reference.py, for float32 and bfloat16 weights and
gradients; see kernels/adamw_triton.py. With TRITON_INTERPRET=1 it takes CPU tensors (tests).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsr_fast.kernels import adamw_8bit_reference as reference
from nsr_fast.kernels.adamw_reference import AdamwScalars
from nsr_fast.kernels.adamw_triton import (
    from_bfloat16,
    rounding_bits,
    scalar_arguments,
    to_bfloat16,
)

CONFIG = {"BLOCKS": 4, "BLOCK_N": reference.BLOCK, "num_warps": 4, "enable_fp_fusion": False}
UNIT = tl.constexpr(tuple(reference.UNIT))
SCALE = tl.constexpr(tuple(reference.SCALE))
OFFSET = tl.constexpr(tuple(reference.OFFSET))
FLOOR = tl.constexpr(tuple(reference.FLOOR))
TOP = tl.constexpr(reference.TOP)


@triton.jit
def value(code):
    k = tl.abs(code)
    units = (18 * k - 7).to(tl.float32)
    unit = tl.full(code.shape, UNIT[0], tl.float32)
    for i in tl.static_range(1, 7):
        units = tl.where(k >= 1 << i, (18 * k + 9 - (16 << i)).to(tl.float32), units)
        unit = tl.where(k >= 1 << i, UNIT[i], unit)
    size = tl.where(k == 128, 1.0, tl.where(k == 0, 0.0, units * unit))
    return tl.where((code < 0) & (k < 128), -size, size)


@triton.jit
def nearest_code(y):
    size = tl.abs(y)
    scale = tl.full(y.shape, SCALE[0], tl.float32)
    offset = tl.full(y.shape, OFFSET[0], tl.float32)
    last = tl.full(y.shape, 1.0, tl.float32)
    for i in tl.static_range(1, 7):
        scale = tl.where(size >= FLOOR[i], SCALE[i], scale)
        offset = tl.where(size >= FLOOR[i], OFFSET[i], offset)
        last = tl.where(size >= FLOOR[i], (2 << i) - 1.0, last)
    cut = size * scale + offset
    k = tl.where(y >= TOP, 128.0, tl.where(cut < last, cut, last))
    k = tl.where((size >= FLOOR[0]) & (size < 2.0), k, 0.0).to(tl.int32)
    return tl.where(y < 0, -k, k).to(tl.int8)


# Reads gradient, codes, absmax, second moment and weight, writes the last four: once each. The new
# first moments wait in registers for their absmax.
@triton.jit(do_not_specialize=["key0", "key1"])
def adamw_8bit_kernel(
    weight_ptr,  # float32, or the bits of bfloat16 as int16
    grad_ptr,
    code_ptr,
    absmax_ptr,
    exp_avg_sq_ptr,  # the bits of bfloat16 as int16
    scale_ptr,
    count,
    step_size,
    decay,
    blend1,
    beta2,
    blend2,
    inv_bias2_sqrt,
    eps,
    grad_scale,
    key0,
    key1,
    HAS_SCALE_PTR: tl.constexpr,
    IS_HALF: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    index = block[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]  # [BLOCKS, BLOCK_N]
    scale = grad_scale
    if HAS_SCALE_PTR:
        scale = tl.load(scale_ptr)
    stepped = tl.where(tl.abs(scale) < float("inf"), count, 0)
    mask, block_mask = index < stepped, block * BLOCK_N < stepped
    g = tl.load(grad_ptr + index, mask=mask, other=0.0).to(tl.float32) * scale
    m = value(tl.load(code_ptr + index, mask=mask, other=0).to(tl.int32))
    m = m * tl.load(absmax_ptr + block, mask=block_mask, other=0.0)[:, None]
    v = from_bfloat16(tl.load(exp_avg_sq_ptr + index, mask=mask, other=0))
    w = tl.load(weight_ptr + index, mask=mask, other=0)
    if IS_HALF:
        w = from_bfloat16(w)
    m = m + (g - m) * blend1
    v = v * beta2 + (g * g) * blend2
    ratio = tl.div_rn(m, tl.sqrt_rn(v) * inv_bias2_sqrt + eps)
    w = w - (ratio * step_size + w * decay)
    noise = rounding_bits(index, key0, key1)
    tl.store(exp_avg_sq_ptr + index, to_bfloat16(v, noise >> 16), mask=mask)
    if IS_HALF:
        w = to_bfloat16(w, noise & 0xFFFF)
    tl.store(weight_ptr + index, w, mask=mask)
    size = tl.abs(m)
    absmax = tl.max(tl.where(mask & (size < float("inf")), size, 0.0), axis=1)  # [BLOCKS]
    y = m * tl.div_rn(tl.full(absmax.shape, 1.0, tl.float32), absmax)[:, None]
    tl.store(absmax_ptr + block, absmax, mask=block_mask)
    tl.store(code_ptr + index, nearest_code(y), mask=mask)


def step_(
    weight: Tensor,
    grad: Tensor,
    code: Tensor,
    absmax: Tensor,
    exp_avg_sq: Tensor,
    scalars: AdamwScalars,
) -> None:
    """One step on contiguous tensors; arguments as in kernels/adamw_8bit.py."""
    is_half = weight.dtype == torch.bfloat16
    with torch.cuda.device_of(weight):
        adamw_8bit_kernel[(triton.cdiv(weight.numel(), CONFIG["BLOCKS"] * CONFIG["BLOCK_N"]),)](
            weight_ptr=weight.view(torch.int16) if is_half else weight,
            grad_ptr=grad,
            code_ptr=code,
            absmax_ptr=absmax,
            exp_avg_sq_ptr=exp_avg_sq.view(torch.int16),
            count=weight.numel(),
            IS_HALF=is_half,
            **scalar_arguments(scalars),
            **CONFIG,
        )
