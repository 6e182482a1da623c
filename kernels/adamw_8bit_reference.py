"""One AdamW step on a state of 3 bytes in plain torch: the definition of kernels/adamw_8bit.py.

The step is adamw_reference.moved, in float32 and on unrounded moments; what is kept of them:
    m = value(code) absmax    int8 codes, one float32 absmax for 256 elements of the flat tensor
    v                         bfloat16, rounded stochastically
value is the signed dynamic map, which is close to relative: seven decades with 2^i values in the
i-th, the middles of as many equal parts of it, then 0 and +1. With k = 2^i + j, 0 <= j < 2^i:
    value(k) = -value(-k) = 10^(i-6) (0.1 + 0.9 (j + 1/2) / 2^i)   k = 1 ... 127, i = 0 ... 6
    value(0) = 0    value(-128) = 1
Source: Dettmers et al., arXiv 2110.02861, section 2.2, as bitsandbytes' create_dynamic_map has it
(checked by tests/kernels/test_adamw_8bit.py). Both moments in it is not offered: where v spans more
than its range within a block, small v become 0 and their updates many times too large.
"""

import math

import torch
from torch import Tensor

from nsr_fast.kernels.adamw_reference import (
    AdamwScalars,
    moved,
    rounding_bits,
    stochastic_bfloat16,
)

BLOCK = 256
_FIRST = [1 << i for i in range(7)]  # code of the first value of each decade
# value(k) = (18 k + 9 - 16 2^i) UNIT[i], and its inverse: k = trunc(|y| SCALE[i] + OFFSET[i]).
UNIT = [1 / (20 * n * 10 ** (6 - i)) for i, n in enumerate(_FIRST)]
SCALE = [n * 10 ** (7 - i) / 9 for i, n in enumerate(_FIRST)]
OFFSET = [8 * n / 9 for n in _FIRST]


def _exact(k: int) -> float:
    decade = k.bit_length() - 1
    return (18 * k + 9 - 16 * (1 << decade)) / (20 * 10 ** (6 - decade) * (1 << decade))


# Above which |y| the i-th decade is nearest: the middle of the values on either side. Then +1.
FLOOR = [_exact(1) / 2, *((_exact(n - 1) + _exact(n)) / 2 for n in _FIRST[1:])]
TOP = (_exact(127) + 1) / 2


@torch.no_grad()
def step_(
    weight: Tensor,
    grad: Tensor,
    code: Tensor,
    absmax: Tensor,
    exp_avg_sq: Tensor,
    scalars: AdamwScalars,
) -> None:
    """One step on contiguous tensors; arguments as in kernels/adamw_8bit.py."""
    scale = float(scalars.grad_scale)
    if not math.isfinite(scale):
        return
    m = dequantized(code, absmax)
    w, m, v = moved(weight.float(), grad.float() * scale, m, exp_avg_sq.float(), scalars)
    noise = rounding_bits(w.numel(), scalars.key, w.device)
    exp_avg_sq.copy_(stochastic_bfloat16(v, noise >> 16))
    weight.copy_(stochastic_bfloat16(w, noise) if weight.dtype == torch.bfloat16 else w)
    new_code, new_absmax = quantized(m)
    code.copy_(new_code)
    absmax.copy_(new_absmax)


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [...] int8 of x [...] float32 and absmax [ceil(x.numel() / 256)] float32.

    absmax is that of the finite elements; any other has code 0, and so has every element of a
    block whose absmax has no finite reciprocal in float32 (below 2.9e-39).
    """
    blocks = torch.nn.functional.pad(x.flatten(), (0, -x.numel() % BLOCK)).view(-1, BLOCK)
    absmax = torch.where(blocks.isfinite(), blocks.abs(), 0.0).amax(1)
    y = blocks * (torch.ones_like(absmax) / absmax).unsqueeze(1)
    return nearest_code(y).flatten()[: x.numel()].view(x.shape), absmax


def dequantized(code: Tensor, absmax: Tensor) -> Tensor:
    """float32 [...] of codes [...] int8 and absmax [ceil(code.numel() / 256)] float32."""
    scale = absmax.repeat_interleave(BLOCK)[: code.numel()].view(code.shape)
    return value(code) * scale


def value(code: Tensor) -> Tensor:
    """float32 [...] in [-1, 1] of codes [...] int8; the formula above, rounded to float32 twice."""
    k = code.int().abs()
    decade = torch.searchsorted(_table(_FIRST, code).int(), k, right=True).sub(1).clamp(0, 6)
    units = 18 * k + 9 - 16 * (1 << decade)
    size = units.float() * _table(UNIT, code)[decade]
    size = torch.where(k == 128, 1.0, torch.where(k == 0, 0.0, size))
    return torch.where((code < 0) & (k < 128), -size, size)


def nearest_code(y: Tensor) -> Tensor:
    """Codes [...] int8 of y [...] float32 in [-1, 1] (rounding may exceed it); NaN, inf give 0."""
    size = y.abs()
    decade = torch.searchsorted(_table(FLOOR, y), size, right=True).sub(1).clamp(0, 6)
    k = (size * _table(SCALE, y)[decade] + _table(OFFSET, y)[decade]).nan_to_num(0.0, 0.0)
    k = torch.minimum(k.clamp(max=128.0).int(), (2 << decade) - 1)
    k = torch.where(y >= _table([TOP], y), 128, k)
    k = torch.where((size >= _table(FLOOR[:1], y)) & (size < 2.0), k, 0)
    return torch.where(y < 0, -k, k).to(torch.int8)


def _table(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)
