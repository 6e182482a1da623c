"""The CUDA AdamW kernels, run from its own source on the CPU (csrc/simt): the reference's bits.

What this proves: the algebra, the index arithmetic at every size and alignment (a misaligned vector
traps). What it cannot: speed, and that a GPU's arithmetic is IEEE's (test_gpu_adamw.py).
"""

import ctypes
import shutil
import subprocess
from functools import partial

import adamw_8bit_cases
import pytest
import torch
from adamw_cases import (
    VARIANTS,
    check_bits,
    check_every_size_and_alignment,
    check_extreme_rounding,
    check_non_finite,
    scalars,
    seed_of,
    state,
)
from test_simt_rows import FLAGS, FORWARD, REVERSE, ROOT

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on PATH")
FLOATS = ("step_size", "decay", "blend1", "beta2", "blend2", "inv_bias2_sqrt", "eps", "grad_scale")


class AdamwArgs(ctypes.Structure):
    """struct AdamwArgs of csrc/adamw.h."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("weight", "grad", "exp_avg", "exp_avg_sq", "master")]
        + [("grad_scale_at", ctypes.c_void_p), ("count", ctypes.c_int64)]
        + [(name, ctypes.c_int32) for name in ("is_weight_half", "is_grad_half")]
        + [(name, ctypes.c_float) for name in FLOATS]
        + [(name, ctypes.c_uint32) for name in ("key0", "key1")]
    )


class Adamw8bitArgs(ctypes.Structure):
    """struct Adamw8bitArgs of csrc/adamw.h."""

    _fields_ = [("step", AdamwArgs)] + [
        (name, ctypes.c_void_p) for name in ("code", "absmax", "exp_avg_sq")
    ]


def run(library, weight, grad, exp_avg, exp_avg_sq, master, numbers, *, order=FORWARD) -> None:
    """adamw_reference.step_ by the emulated kernel."""
    args = arguments(weight, grad, exp_avg, exp_avg_sq, master, numbers)
    checked(library.nsr_simt_adamw, args, order)


def run_8bit(library, weight, grad, code, absmax, exp_avg_sq, numbers, *, order=FORWARD) -> None:
    """adamw_8bit_reference.step_ by the emulated kernel."""
    step = arguments(weight, grad, None, None, None, numbers)
    args = Adamw8bitArgs(step, *(x.data_ptr() for x in (code, absmax, exp_avg_sq)))
    checked(library.nsr_simt_adamw_8bit, args, order)


def checked(kernel, args, order: int) -> None:
    message = ctypes.create_string_buffer(500)
    if kernel(ctypes.byref(args), order, message, ctypes.c_size_t(len(message))):
        raise RuntimeError(message.value.decode())


def arguments(weight, grad, exp_avg, exp_avg_sq, master, numbers) -> AdamwArgs:
    scale = numbers.grad_scale
    is_tensor = isinstance(scale, torch.Tensor)
    key0, key1 = numbers.key or (0, 0)
    return AdamwArgs(
        *(None if x is None else x.data_ptr() for x in (weight, grad, exp_avg, exp_avg_sq, master)),
        grad_scale_at=scale.data_ptr() if is_tensor else None,
        count=weight.numel(),
        is_weight_half=weight.dtype == torch.bfloat16,
        is_grad_half=grad.dtype == torch.bfloat16,
        **{name: getattr(numbers, name) for name in FLOATS[:-1]},
        grad_scale=1.0 if is_tensor else scale,
        key0=key0,
        key1=key1,
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    output = tmp_path_factory.mktemp("simt") / "adamw_simt.so"
    source = ROOT / "csrc" / "simt" / "adamw_simt.cpp"
    flags = [*FLAGS, "-Wno-unknown-pragmas", "-Werror"]
    subprocess.run(["g++", *flags, str(source), "-o", str(output)], check=True)
    library = ctypes.CDLL(str(output))
    assert library.nsr_simt_adamw_bytes() == ctypes.sizeof(AdamwArgs)
    assert library.nsr_simt_adamw_8bit_bytes() == ctypes.sizeof(Adamw8bitArgs)
    return library


def test_bits_of_the_reference(library):
    step_ = partial(run, library)
    check_every_size_and_alignment(step_)
    for variant in VARIANTS:
        check_bits(step_, 4099, variant, offsets=(0, 0, 0, 0, 1))  # more than one block
    check_non_finite(step_)
    check_extreme_rounding(step_)


def test_result_does_not_depend_on_the_thread_order(library):
    for variant in VARIANTS:
        check_bits(partial(run, library, order=REVERSE), 1030, variant)


def test_gradient_scale_on_the_device(library):
    for variant in VARIANTS:
        results = []
        for scale in (0.3125, torch.tensor(0.3125), torch.tensor(torch.nan)):
            s = state(70, variant)
            run(library, *s.tensors(), scalars(2, seed=seed_of(variant), grad_scale=scale))
            results.append(s.outputs())
        assert all(torch.equal(a, b) for a, b in zip(results[0], results[1]))
        assert all(torch.equal(a, b) for a, b in zip(results[2], state(70, variant).outputs()))


def test_8bit_gives_the_bits_of_the_reference(library):
    adamw_8bit_cases.check_all(partial(run_8bit, library))
    adamw_8bit_cases.check_scale_on_the_device(partial(run_8bit, library))
    for order in (FORWARD, REVERSE, 5):  # more than one block of threads
        step_ = partial(run_8bit, library, order=order)
        for variant in adamw_8bit_cases.VARIANTS:
            adamw_8bit_cases.check_bits(step_, 4099, variant, offsets=(0, 0, 4, 0, 0))


def test_hundred_steps_equal_torch(library):
    g = torch.Generator().manual_seed(0)
    ours = torch.randn(70, generator=g) * 0.05
    theirs = ours.clone().requires_grad_()
    m, v = torch.zeros(70), torch.zeros(70)
    torch_adamw = torch.optim.AdamW([theirs], lr=1e-3, weight_decay=0.1)
    for step in range(1, 101):
        theirs.grad = torch.randn(70, generator=g)
        torch_adamw.step()
        run(library, ours, theirs.grad, m, v, None, scalars(step, grad_scale=1.0))
    assert (ours - theirs).abs().max() <= 1e-6
