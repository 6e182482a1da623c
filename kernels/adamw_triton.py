"""One AdamW step on CUDA tensors as one Triton kernel, one program per block of elements.

Same signature and bits as kernels/adamw_reference.py, for float32 and bfloat16 weights and
gradients: no product is fused into a sum, division and root are rounded to nearest, and bfloat16 is
written as the 16 bits computed here. With TRITON_INTERPRET=1 it takes CPU tensors (tests).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsr_fast.kernels.adamw_reference import AdamwScalars

CONFIG = {"BLOCK_N": 1024, "num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def rounding_bits(index, key0, key1):
    x = index.to(tl.uint32) ^ key0.to(tl.uint32)
    x = (x ^ (x >> 16)) * 0x7FEB352D + key1.to(tl.uint32)
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)  # [BLOCK_N]


@triton.jit
def from_bfloat16(bits):
    return (bits.to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def to_bfloat16(x, below):
    """Bits as int16; `below` is what is added to the 16 that fall away. A carry into NaN would make
    it a number: its payload may be all ones."""
    bits = x.to(tl.uint32, bitcast=True)
    return tl.where(x == x, (bits + below) >> 16, 0x7FC0).to(tl.int16)


# Reads gradient, both moments and master (or weight), writes moments, master and weight: once each.
@triton.jit(do_not_specialize=["key0", "key1"])
def adamw_kernel(
    weight_ptr,  # float32, or the bits of bfloat16 as int16
    grad_ptr,
    exp_avg_ptr,
    exp_avg_sq_ptr,
    master_ptr,
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
    HAS_MASTER: tl.constexpr,
    HAS_SCALE_PTR: tl.constexpr,
    IS_HALF: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    index = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # below 2^31: see adamw.PIECE
    scale = grad_scale
    if HAS_SCALE_PTR:
        scale = tl.load(scale_ptr)
    mask = index < tl.where(tl.abs(scale) < float("inf"), count, 0)
    g = tl.load(grad_ptr + index, mask=mask, other=0.0).to(tl.float32) * scale
    m = tl.load(exp_avg_ptr + index, mask=mask, other=0.0)
    v = tl.load(exp_avg_sq_ptr + index, mask=mask, other=0.0)
    if HAS_MASTER:
        w = tl.load(master_ptr + index, mask=mask, other=0.0)
    elif IS_HALF:
        w = from_bfloat16(tl.load(weight_ptr + index, mask=mask, other=0))
    else:
        w = tl.load(weight_ptr + index, mask=mask, other=0.0)
    m = m + (g - m) * blend1
    v = v * beta2 + (g * g) * blend2
    ratio = tl.div_rn(m, tl.sqrt_rn(v) * inv_bias2_sqrt + eps)
    w = w - (ratio * step_size + w * decay)
    tl.store(exp_avg_ptr + index, m, mask=mask)
    tl.store(exp_avg_sq_ptr + index, v, mask=mask)
    if HAS_MASTER:
        tl.store(master_ptr + index, w, mask=mask)
    if IS_HALF:
        bits = w.to(tl.uint32, bitcast=True)
        if HAS_MASTER:
            below = 0x7FFF + ((bits >> 16) & 1)  # to nearest even
        else:
            below = rounding_bits(index, key0, key1) & 0xFFFF
        tl.store(weight_ptr + index, to_bfloat16(w, below), mask=mask)
    else:
        tl.store(weight_ptr + index, w, mask=mask)


def step_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    master: Tensor | None,
    scalars: AdamwScalars,
) -> None:
    """One step on contiguous tensors of one shape; arguments as in kernels/adamw.py."""
    is_half = weight.dtype == torch.bfloat16
    with torch.cuda.device_of(weight):
        adamw_kernel[(triton.cdiv(weight.numel(), CONFIG["BLOCK_N"]),)](
            weight_ptr=weight.view(torch.int16) if is_half else weight,
            grad_ptr=grad,
            exp_avg_ptr=exp_avg,
            exp_avg_sq_ptr=exp_avg_sq,
            master_ptr=master,
            count=weight.numel(),
            HAS_MASTER=master is not None,
            IS_HALF=is_half,
            **scalar_arguments(scalars),
            **CONFIG,
        )


def scalar_arguments(scalars: AdamwScalars) -> dict[str, object]:
    """What a kernel takes of them, by its names."""
    scale = scalars.grad_scale
    is_tensor = isinstance(scale, Tensor)
    words = scalars.key or (0, 0)
    key0, key1 = (word - (word >> 31 << 32) for word in words)  # as int32, one compiled kernel
    return {
        "scale_ptr": scale if is_tensor else None,
        "step_size": scalars.step_size,
        "decay": scalars.decay,
        "blend1": scalars.blend1,
        "beta2": scalars.beta2,
        "blend2": scalars.blend2,
        "inv_bias2_sqrt": scalars.inv_bias2_sqrt,
        "eps": scalars.eps,
        "grad_scale": 1.0 if is_tensor else scale,
        "key0": key0,
        "key1": key1,
        "HAS_SCALE_PTR": is_tensor,
    }
