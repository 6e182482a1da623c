"""AdamW in 3 bytes of state a parameter: 8-bit first moment, bfloat16 second, no master.

kernels/adamw_8bit_reference.py states the format and the formula; every backend gives its bits (a
NaN may have another payload): C++ and CUDA C++ are called here, the third is
kernels/adamw_8bit_triton.py.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from nsr_fast.kernels import adamw
from nsr_fast.kernels.adamw_8bit_reference import BLOCK
from nsr_fast.kernels.adamw_reference import AdamwScalars, rounding_key
from nsr_fast.kernels.rows import resolve_backend, text

_STEPS = {
    "reference": ("nsr_fast.kernels.adamw_8bit_reference", "step_"),
    "cpu": ("nsr_fast.kernels.adamw_8bit", "step_cpu_"),
    "cuda": ("nsr_fast.kernels.adamw_8bit", "step_cuda_"),
    "triton": ("nsr_fast.kernels.adamw_8bit_triton", "step_"),
}


@torch.no_grad()
def adamw_8bit_step_(
    weight: Tensor,
    grad: Tensor,
    code: Tensor,
    absmax: Tensor,
    exp_avg_sq: Tensor,
    *,
    step: int,
    learning_rate: float,
    seed: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    grad_scale: float | Tensor = 1.0,
    backend: str = "auto",
) -> None:
    """One AdamW step in place on a state of 3.02 bytes an element.

        m = value(code) absmax      g = grad * grad_scale
        m = m + (g - m) (1 - beta1)      v = v beta2 + (g g) (1 - beta2)
        w = w - ((m / (sqrt(v) / sqrt(1 - beta2^t) + eps)) lr / (1 - beta1^t) + w lr weight_decay)
        absmax = max |m| of the block      code = that of the value nearest to m / absmax

    All in float32; m and v move the weight before they are rounded. value is the signed dynamic map
    of kernels/adamw_8bit_reference.py. v is rounded stochastically, or it would not follow a
    falling gradient: a change of 0.1 % is below bfloat16's spacing.

    weight      [...]  float32 | bfloat16, contiguous, at any element address; overwritten.
                       bfloat16 is rounded stochastically
    grad        [...]  float32 | bfloat16, contiguous, the weight's shape; only read
    code        [...]  int8, contiguous; zeros before step 1; overwritten
    absmax      [B]    float32, contiguous, B = num_blocks(weight.numel()): of 256 consecutive
                       elements of the flat weight each, the last of what is left. A view of a
                       tensor's leading rows has that tensor's blocks. Zeros before step 1
    exp_avg_sq  [...]  bfloat16, contiguous; zeros before step 1; overwritten
    step        counts from 1
    grad_scale  as in adamw.adamw_step_: a factor that is not finite leaves every tensor as it is
    seed        of the rounding; the low half of a hash of (seed, step, element) rounds the weight,
                the high half the second moment: the same in every backend
    Memory      bfloat16 weight and gradient: 12.03 bytes an element read and written; nothing is
                allocated (by "reference" it is)
    NaN         a NaN in gradient or second moment makes this second moment and weight NaN, one in
                the weight the weight, and nothing beside them: codes hold no NaN, a first moment
                that is not finite becomes 0 and does not count for its block's absmax
    Raises      ValueError on shape, dtype, layout, device or range; RuntimeError if the backend is
                absent
    Source      arXiv 1711.05101, arXiv 2110.02861; checked by tests/kernels/test_adamw_8bit.py
    """
    _check(weight, grad, code, absmax, exp_avg_sq, seed)
    numbers = {"step": step, "beta1": beta1, "beta2": beta2, "learning_rate": learning_rate}
    numbers |= {"eps": eps, "weight_decay": weight_decay}
    scalars = adamw.checked_scalars(weight, grad_scale, **numbers)
    step_ = step_function(backend, weight.device, weight.dtype)
    flat = [x.view(-1) for x in (weight, grad, code, exp_avg_sq)]
    for piece, start in enumerate(range(0, weight.numel(), adamw.PIECE)):
        stop = min(start + adamw.PIECE, weight.numel())
        w, g, k, v = (x[start:stop] for x in flat)
        scales = absmax[start // BLOCK : num_blocks(stop)]
        step_(w, g, k, scales, v, replace(scalars, key=rounding_key(seed, step, piece)))
    torch.autograd.graph.increment_version(weight)


def num_blocks(count: int) -> int:
    """Elements of absmax for `count` parameters."""
    return -(-count // BLOCK)


@cache
def step_function(backend: str, device: torch.device, dtype: torch.dtype) -> Callable[..., None]:
    """The step of the named backend for such a weight; errors as resolve_backend raises them."""
    module, name = _STEPS[resolve_backend(backend, device, dtype)]
    return getattr(import_module(module), name)


def step_cpu_(
    weight: Tensor,
    grad: Tensor,
    code: Tensor,
    absmax: Tensor,
    exp_avg_sq: Tensor,
    scalars: AdamwScalars,
    *,
    isa: str = "auto",
) -> None:
    """adamw_8bit_reference.step_ on CPU tensors, in torch's number of threads; `isa` forces an
    instruction set (tests)."""
    from nsr_fast import _cpu

    args = adamw.cpu_arguments((weight, grad, None, None, None), scalars)
    state = (x.data_ptr() for x in (code, absmax, exp_avg_sq))
    _cpu.adamw_8bit_step(args, *state, torch.get_num_threads(), isa)


def step_cuda_(
    weight: Tensor,
    grad: Tensor,
    code: Tensor,
    absmax: Tensor,
    exp_avg_sq: Tensor,
    scalars: AdamwScalars,
) -> None:
    """adamw_8bit_reference.step_ on CUDA tensors, on torch's current stream; nothing waits."""
    from nsr_fast import _cuda

    args = adamw.cuda_arguments((weight, grad, None, None, None), scalars)
    state = (x.data_ptr() for x in (code, absmax, exp_avg_sq))
    device = weight.device
    _cuda.adamw_8bit_step(args, *state, device.index, torch.cuda.current_stream(device).cuda_stream)


def _check(
    weight: Tensor, grad: Tensor, code: Tensor, absmax: Tensor, exp_avg_sq: Tensor, seed: int
) -> None:
    floats = (torch.float32, torch.bfloat16)
    adamw.check_like(weight, "weight", weight, *floats)
    adamw.check_like(weight, "grad", grad, *floats)
    adamw.check_like(weight, "code", code, torch.int8)
    adamw.check_like(weight, "exp_avg_sq", exp_avg_sq, torch.bfloat16)
    want = f"contiguous [{num_blocks(weight.numel())}] float32 on {weight.device}"
    is_whole = absmax.shape == (num_blocks(weight.numel()),) and absmax.is_contiguous()
    if absmax.dtype != torch.float32 or absmax.device != weight.device or not is_whole:
        raise ValueError(f"absmax: expected {want}, got {text(absmax)}")
    if not isinstance(seed, int):
        raise ValueError(f"seed: expected an integer, got {seed!r}")
