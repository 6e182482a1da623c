"""One AdamW step through the compiled modules: nsr_fast._cpu (C++) and nsr_fast._cuda (CUDA C++).

Same signature and bits as kernels/adamw_reference.py, for float32 and bfloat16 weights and
gradients. Every array is read once and written once.
"""

import torch
from torch import Tensor

from nsr_fast.kernels.adamw_reference import AdamwScalars


def step_cpu_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    master: Tensor | None,
    scalars: AdamwScalars,
    *,
    isa: str = "auto",
) -> None:
    """On CPU tensors, in torch's number of threads; `isa` forces an instruction set (tests)."""
    from nsr_fast import _cpu

    tensors = (weight, grad, exp_avg, exp_avg_sq, master)
    args = _arguments(_cpu.Adamw, *tensors, scalars, float(scalars.grad_scale), 0)
    _cpu.adamw_step(args, torch.get_num_threads(), isa)


def step_cuda_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    master: Tensor | None,
    scalars: AdamwScalars,
) -> None:
    """On CUDA tensors, on torch's current stream; nothing waits for the GPU."""
    from nsr_fast import _cuda

    scale, tensors = scalars.grad_scale, (weight, grad, exp_avg, exp_avg_sq, master)
    is_tensor = isinstance(scale, Tensor)
    value, address = (1.0, scale.data_ptr()) if is_tensor else (scale, 0)
    args = _arguments(_cuda.Adamw, *tensors, scalars, value, address)
    device = weight.device
    _cuda.adamw_step(args, device.index, torch.cuda.current_stream(device).cuda_stream)


def sum_of_squares(x: Tensor, *, isa: str = "auto") -> float:
    """Sum of x^2 of a contiguous float32 or bfloat16 CPU tensor; float64 above 16,384 elements."""
    from nsr_fast import _cpu

    is_half = x.dtype == torch.bfloat16
    return _cpu.sum_of_squares(x.data_ptr(), x.numel(), is_half, torch.get_num_threads(), isa)


def _arguments(
    make: type,
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    master: Tensor | None,
    scalars: AdamwScalars,
    grad_scale: float,
    grad_scale_at: int,
):
    key0, key1 = scalars.key or (0, 0)
    return make(
        weight=weight.data_ptr(),
        grad=grad.data_ptr(),
        exp_avg=exp_avg.data_ptr(),
        exp_avg_sq=exp_avg_sq.data_ptr(),
        master=0 if master is None else master.data_ptr(),
        grad_scale_at=grad_scale_at,
        count=weight.numel(),
        is_weight_half=weight.dtype == torch.bfloat16,
        is_grad_half=grad.dtype == torch.bfloat16,
        step_size=scalars.step_size,
        decay=scalars.decay,
        blend1=scalars.blend1,
        beta2=scalars.beta2,
        blend2=scalars.blend2,
        inv_bias2_sqrt=scalars.inv_bias2_sqrt,
        eps=scalars.eps,
        grad_scale=grad_scale,
        key0=key0,
        key1=key1,
    )
