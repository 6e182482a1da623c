"""One AdamW step in plain torch: the definition of every backend of kernels/adamw.py.

    g = grad * grad_scale
    m = m + (g - m) (1 - beta1)
    v = v beta2 + (g g) (1 - beta2)
    w = w - ((m / (sqrt(v) / sqrt(1 - beta2^t) + eps)) lr / (1 - beta1^t) + w lr weight_decay)

Source: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, as torch.optim.AdamW has it; but the
decay joins the update before the rounding: torch multiplies by 1 - lr weight_decay, which float32
rounds to 1 below 3e-8. The scalars are made in float64 and rounded once; each float32 operation is
rounded by itself, in the order written, and every backend gives the same bits.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class AdamwScalars:
    """The numbers of one step; key seeds the rounding bits, None where there are none."""

    step_size: float  # lr / (1 - beta1^t)
    decay: float  # lr weight_decay
    blend1: float  # 1 - beta1
    beta2: float
    blend2: float  # 1 - beta2
    inv_bias2_sqrt: float  # 1 / sqrt(1 - beta2^t)
    eps: float
    grad_scale: float | Tensor  # [] float32 on the weight's device
    key: tuple[int, int] | None


@torch.no_grad()
def step_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    master: Tensor | None,
    scalars: AdamwScalars,
) -> None:
    """One step on contiguous tensors of one shape; arguments as in kernels/adamw.py."""
    scale = float(scalars.grad_scale)
    if not math.isfinite(scale):
        return
    target = weight if master is None else master
    m, v = exp_avg, exp_avg_sq
    g = grad.to(m.dtype) * scale
    w, m_new, v_new = moved(target.to(m.dtype), g, m, v, scalars)
    m.copy_(m_new)
    v.copy_(v_new)
    if scalars.key is not None:
        w = stochastic_bfloat16(w, rounding_bits(w.numel(), scalars.key, w.device))
    target.copy_(w)
    if master is not None:
        weight.copy_(master)


def moved(
    w: Tensor, g: Tensor, m: Tensor, v: Tensor, scalars: AdamwScalars
) -> tuple[Tensor, Tensor, Tensor]:
    """The new weight and moments of the formula above; g is scaled, all of one float dtype."""
    m = m + (g - m) * scalars.blend1
    v = v * scalars.beta2 + (g * g) * scalars.blend2
    root = v.double().sqrt().to(v.dtype)  # torch's own in float32 is not always the nearest
    ratio = m / (root * scalars.inv_bias2_sqrt + scalars.eps)
    return w - (ratio * scalars.step_size + w * scalars.decay), m, v


def stochastic_bfloat16(x: Tensor, noise: Tensor) -> Tensor:
    """x [...] float32 rounded to one of its two bfloat16 neighbours, to the farther one with the
    probability that makes the mean exact (in steps of 2^-16 of their distance).

    The low 16 bits of noise [x.numel()] int64 are added below the bfloat16 mantissa, then the low
    half falls away. A carry out of the largest finite number gives infinity; infinities and NaN
    stay.
    """
    bits = x.view(torch.int32).long() & _WORD
    cut = (bits + (noise.view(x.shape) & 0xFFFF)) & 0xFFFF0000
    # Back to int32 by value: a word with the sign bit is negative there.
    cut = torch.where(cut >= 1 << 31, cut - (1 << 32), cut).int().view(torch.float32)
    return torch.where(x.isnan(), x, cut).to(torch.bfloat16)


def rounding_bits(count: int, key: tuple[int, int], device: torch.device) -> Tensor:
    """[count] int64 in [0, 2^32): a hash of each index, in 32-bit words.

    The finaliser "lowbias32" of C. Wellons' hash-prospector with the second half of the key added
    in its middle, so that two keys do not give each other's bits in another order.
    """
    x = torch.arange(count, device=device) ^ key[0]
    x = ((x ^ (x >> 16)) * 0x7FEB352D + key[1]) & _WORD
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _WORD
    return x ^ (x >> 16)


def rounding_key(seed: int, step: int, piece: int) -> tuple[int, int]:
    """The two 32-bit words of the key: (seed, step, piece) through the mixer of splitmix64."""
    key = 0
    for number in (seed, step, piece):
        key = (key + number + 0x9E3779B97F4A7C15) & (1 << 64) - 1
        key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
        key = (key ^ key >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
        key ^= key >> 31
    return key & _WORD, key >> 32
