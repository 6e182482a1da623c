"""Fused AdamW: one pass over gradient and moments that writes the weight where it lies.

kernels/adamw_reference.py states the formula; every backend gives its bits (a NaN may have another
payload): C++ and CUDA C++ are called here, the third is kernels/adamw_triton.py. A bfloat16 weight
is written from a float32 master, or with stochastic rounding and no master: at a learning rate of
1e-6 rounding to nearest would lose nearly every update.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from nsr_fast.kernels.adamw_reference import AdamwScalars, rounding_key
from nsr_fast.kernels.rows import backend_reason, resolve_backend, text

_STEPS = {
    "reference": ("nsr_fast.kernels.adamw_reference", "step_"),
    "cpu": ("nsr_fast.kernels.adamw", "step_cpu_"),
    "cuda": ("nsr_fast.kernels.adamw", "step_cuda_"),
    "triton": ("nsr_fast.kernels.adamw_triton", "step_"),
}
# Kernels index with 32 bits; a longer tensor is stepped in pieces, each with its own rounding key.
PIECE = 1 << 30


@torch.no_grad()
def adamw_step_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    master: Tensor | None = None,
    step: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    grad_scale: float | Tensor = 1.0,
    seed: int | None = None,
    backend: str = "auto",
) -> None:
    """One AdamW step in place; the formula is in kernels/adamw_reference.py.

    weight               [...]  float32 | bfloat16, contiguous, at any element address; overwritten
    grad                 [...]  float32 | bfloat16, contiguous, the weight's shape; only read
    exp_avg, exp_avg_sq  [...]  float32, contiguous; zeros before step 1; overwritten
    master               [...]  float32, contiguous, of a bfloat16 weight: stepped in its place and
                                rounded to it (to nearest even); None for a float32 weight
    step                 counts from 1
    grad_scale           factor of the gradient (clipping) as a float or a [] float32 tensor on the
                         weight's device, which nothing waits for; a factor that is not finite
                         leaves every tensor as it is
    seed                 of the stochastic rounding of a bfloat16 weight without master: the bits
                         are a hash of (seed, step, element), the same in every backend
    Memory   bfloat16 weight and gradient: 28 bytes an element read and written with a master,
             22 without; nothing is allocated (by "reference" it is)
    NaN      an element whose gradient, moment or weight is NaN becomes NaN, alone
    Raises   ValueError on shape, dtype, layout, device or range; RuntimeError if the backend is
             absent. float64 weight and moments: "reference" only
    Source   arXiv 1711.05101; checked by tests/kernels/test_adamw.py
    """
    _check(weight, grad, exp_avg, exp_avg_sq, master, seed)
    numbers = {"step": step, "beta1": beta1, "beta2": beta2, "learning_rate": learning_rate}
    numbers |= {"eps": eps, "weight_decay": weight_decay}
    scalars = checked_scalars(weight, grad_scale, **numbers)
    step_ = step_function(backend, weight.device, weight.dtype)
    tensors = (weight, grad, exp_avg, exp_avg_sq, master)
    for piece, start in enumerate(range(0, weight.numel(), PIECE)):
        key = None if seed is None else rounding_key(seed, step, piece)
        if weight.numel() > PIECE:
            parts = [None if x is None else x.view(-1)[start : start + PIECE] for x in tensors]
        else:
            parts = tensors
        step_(*parts, replace(scalars, key=key))
    torch.autograd.graph.increment_version(weight)


@cache
def step_function(backend: str, device: torch.device, dtype: torch.dtype) -> Callable[..., None]:
    """The step of the named backend for such a weight; errors as resolve_backend raises them."""
    if dtype == torch.float64 and backend not in ("auto", "reference"):
        raise ValueError(f"backend: {backend!r} takes float32 and bfloat16 weights, got float64")
    module, name = _STEPS[resolve_backend(backend, device, dtype)]
    return getattr(import_module(module), name)


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    """Euclidean norm [] float32 of all elements of `grads` (one device), which nothing waits for.

    On the CPU sums are float64 above 16,384 elements (torch's float32 norm of 20 million normal
    numbers is 1e-3 too small); elsewhere torch's. bfloat16 is squared in float32.
    """
    dtypes = (torch.float32, torch.bfloat16)
    if all(g.dtype in dtypes and backend_reason("cpu", g.device) is None for g in grads):
        total = sum(sum_of_squares(g.contiguous()) for g in grads)
        return torch.tensor(math.sqrt(total), dtype=torch.float32)
    norms = [
        torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)).float()
        for g in grads
    ]
    return torch.linalg.vector_norm(torch.stack(norms))


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
    """adamw_reference.step_ on CPU tensors, in torch's number of threads; `isa` forces an
    instruction set (tests)."""
    from nsr_fast import _cpu

    tensors = (weight, grad, exp_avg, exp_avg_sq, master)
    args = cpu_arguments(tensors, scalars)
    _cpu.adamw_step(args, torch.get_num_threads(), isa)


def step_cuda_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    master: Tensor | None,
    scalars: AdamwScalars,
) -> None:
    """adamw_reference.step_ on CUDA tensors, on torch's current stream; nothing waits."""
    from nsr_fast import _cuda

    args = cuda_arguments((weight, grad, exp_avg, exp_avg_sq, master), scalars)
    device = weight.device
    _cuda.adamw_step(args, device.index, torch.cuda.current_stream(device).cuda_stream)


def sum_of_squares(x: Tensor, *, isa: str = "auto") -> float:
    """Sum of x^2 of a contiguous float32 or bfloat16 CPU tensor; float64 above 16,384 elements."""
    from nsr_fast import _cpu

    is_half = x.dtype == torch.bfloat16
    return _cpu.sum_of_squares(x.data_ptr(), x.numel(), is_half, torch.get_num_threads(), isa)


def cpu_arguments(tensors: tuple[Tensor | None, ...], scalars: AdamwScalars) -> object:
    """_cpu.Adamw of weight, grad, exp_avg, exp_avg_sq and master; None is a null address."""
    from nsr_fast import _cpu

    return _arguments(_cpu.Adamw, tensors, scalars, float(scalars.grad_scale), 0)


def cuda_arguments(tensors: tuple[Tensor | None, ...], scalars: AdamwScalars) -> object:
    """_cuda.Adamw of the same tensors, on the device."""
    from nsr_fast import _cuda

    scale = scalars.grad_scale
    value, address = (1.0, scale.data_ptr()) if isinstance(scale, Tensor) else (scale, 0)
    return _arguments(_cuda.Adamw, tensors, scalars, value, address)


def _arguments(
    make: type,
    tensors: tuple[Tensor | None, ...],
    scalars: AdamwScalars,
    grad_scale: float,
    grad_scale_at: int,
) -> object:
    """AdamwArgs of csrc/adamw.h; grad_scale_at is the address of a factor on the device, or 0."""
    weight, grad, *_ = tensors
    key0, key1 = scalars.key or (0, 0)
    names = ("weight", "grad", "exp_avg", "exp_avg_sq", "master")
    numbers = ("step_size", "decay", "blend1", "beta2", "blend2", "inv_bias2_sqrt", "eps")
    return make(
        **{name: 0 if x is None else x.data_ptr() for name, x in zip(names, tensors)},
        **{name: getattr(scalars, name) for name in numbers},
        grad_scale=grad_scale,
        grad_scale_at=grad_scale_at,
        count=weight.numel(),
        is_weight_half=weight.dtype == torch.bfloat16,
        is_grad_half=grad.dtype == torch.bfloat16,
        key0=key0,
        key1=key1,
    )


def _check(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    master: Tensor | None,
    seed: int | None,
) -> None:
    floats = (torch.float32, torch.bfloat16)
    state = torch.float64 if weight.dtype == torch.float64 else torch.float32
    check_like(weight, "weight", weight, *floats, torch.float64)
    check_like(weight, "grad", grad, *floats, state)
    check_like(weight, "exp_avg", exp_avg, state)
    check_like(weight, "exp_avg_sq", exp_avg_sq, state)
    if master is not None:
        check_like(weight, "master", master, state)
    is_half = weight.dtype == torch.bfloat16
    if master is not None and not is_half:
        raise ValueError(
            f"master: expected None for a weight of {weight.dtype}, got {text(master)}"
        )
    if (is_half and master is None) != (seed is not None):
        want = "an integer for a bfloat16 weight without master, None for any other"
        raise ValueError(f"seed: expected {want}, got {seed!r}")


def check_like(weight: Tensor, name: str, x: Tensor, *allowed: torch.dtype) -> None:
    """ValueError unless x is contiguous, of weight's shape and device and an allowed dtype."""
    is_alike = x.shape == weight.shape and x.device == weight.device
    if x.dtype not in allowed or not is_alike or not x.is_contiguous():
        names = " | ".join(dict.fromkeys(str(d).removeprefix("torch.") for d in allowed))
        want = f"contiguous {list(weight.shape)} {names} on {weight.device}"
        raise ValueError(f"{name}: expected {want}, got {text(x)} with strides {x.stride()}")


def checked_scalars(
    weight: Tensor,
    grad_scale: float | Tensor,
    *,
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> AdamwScalars:
    """The numbers of a step without its key; ValueError on range, grad_scale's dtype or device."""
    numbers = {"step": step, "beta1": beta1, "beta2": beta2, "learning_rate": learning_rate}
    _check_numbers(weight, grad_scale, numbers | {"eps": eps, "weight_decay": weight_decay})
    return AdamwScalars(
        step_size=learning_rate / (1.0 - beta1**step),
        decay=learning_rate * weight_decay,
        blend1=1.0 - beta1,
        beta2=beta2,
        blend2=1.0 - beta2,
        inv_bias2_sqrt=1.0 / math.sqrt(1.0 - beta2**step),
        eps=eps,
        grad_scale=grad_scale,
        key=None,
    )


def _check_numbers(weight: Tensor, grad_scale: float | Tensor, numbers: dict[str, float]) -> None:
    for name, value in numbers.items():
        if name == "step":
            want, is_good = "an integer >= 1", value >= 1
        elif name.startswith("beta"):
            want, is_good = "a number in [0, 1)", 0.0 <= value < 1.0
        else:
            want, is_good = "a finite number >= 0", 0.0 <= value < math.inf
        if not is_good:
            raise ValueError(f"{name}: expected {want}, got {value!r}")
    if not isinstance(grad_scale, Tensor):
        return
    is_scalar = grad_scale.dim() == 0 and grad_scale.dtype == torch.float32
    if not is_scalar or grad_scale.device != weight.device:
        want = f"a float or [] float32 on {weight.device}"
        raise ValueError(f"grad_scale: expected {want}, got {text(grad_scale)}")
