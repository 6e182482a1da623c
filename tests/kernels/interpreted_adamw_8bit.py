"""The Triton 8-bit AdamW in the interpreter; test_interpreted.py runs this file."""

import pytest
import torch
from adamw_8bit_cases import VARIANTS, check_all, check_bits, check_scale_on_the_device

from nsr_fast.kernels.adamw_8bit import adamw_8bit_step_
from nsr_fast.kernels.adamw_8bit_triton import step_

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def test_bits_of_the_reference():
    check_all(step_)
    for variant in VARIANTS:
        check_bits(step_, 3001, variant)


def test_gradient_scale_on_the_device():
    check_scale_on_the_device(step_)


def test_the_door_opens():
    results = []
    for backend in ("triton", "reference"):
        weight, v = torch.ones(300), torch.zeros(300, dtype=torch.bfloat16)
        code, absmax = torch.zeros(300, dtype=torch.int8), torch.zeros(2)
        grad = torch.linspace(-1, 1, 300)
        numbers = {"step": 1, "learning_rate": 0.5, "seed": 0, "backend": backend}
        adamw_8bit_step_(weight, grad, code, absmax, v, **numbers)
        results.append((weight, code, absmax, v))
    assert all(torch.equal(a, b) for a, b in zip(*results))
