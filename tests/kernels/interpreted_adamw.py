"""The Triton AdamW in the interpreter; test_triton_interpreted.py runs this file."""

from functools import partial

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

from nsr_fast.kernels.adamw import adamw_step_
from nsr_fast.kernels.adamw_triton import step_

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def test_bits_of_the_reference():
    check_every_size_and_alignment(step_)
    for variant in VARIANTS:
        check_bits(step_, 3001, variant)
    check_non_finite(step_)
    check_extreme_rounding(step_)


def test_gradient_scale_on_the_device():
    for variant in VARIANTS:
        results = []
        for scale in (0.3125, torch.tensor(0.3125), torch.tensor(torch.nan)):
            s = state(70, variant)
            step_(*s.tensors(), scalars(2, seed=seed_of(variant), grad_scale=scale))
            results.append(s.outputs())
        assert all(torch.equal(a, b) for a, b in zip(results[0], results[1]))
        assert all(torch.equal(a, b) for a, b in zip(results[2], state(70, variant).outputs()))


def test_hundred_steps_equal_torch():
    g = torch.Generator().manual_seed(0)
    ours = torch.randn(40, generator=g) * 0.05
    theirs = ours.clone().requires_grad_()
    m, v = torch.zeros(40), torch.zeros(40)
    torch_adamw = torch.optim.AdamW([theirs], lr=1e-3, weight_decay=0.01)
    run = partial(adamw_step_, learning_rate=1e-3, weight_decay=0.01, backend="triton")
    for step in range(1, 101):
        theirs.grad = torch.randn(40, generator=g)
        torch_adamw.step()
        run(ours, theirs.grad, m, v, step=step)
    assert (ours - theirs).abs().max() <= 1e-6
