"""PolicyOptimizer: equality with AdamW, bfloat16 masters, bad gradients, warm-up."""

import pytest
import torch
from torch import nn

from nsr_fast.train.optimizer import PolicyOptimizer

SETTINGS = {"weight_decay": 0.01, "max_grad_norm": 1.0}


def test_float32_steps_equal_clipped_adamw():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(5, 3)) for _ in range(2))
    optimizer = PolicyOptimizer([ours], learning_rate=1e-2, **SETTINGS)
    reference = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.01)
    for _ in range(20):
        gradient = torch.randn(5, 3) * 4
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        norm = optimizer.step()
        assert norm == pytest.approx(float(gradient.norm()), rel=1e-5)
        nn.utils.clip_grad_norm_([theirs], 1.0)
        reference.step()
    assert torch.equal(ours, theirs)


def test_bfloat16_parameters_keep_small_updates_through_their_master():
    parameter = nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
    plain = nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
    ours = PolicyOptimizer([parameter], learning_rate=1e-4, weight_decay=0.0, max_grad_norm=1e9)
    theirs = torch.optim.AdamW([plain], lr=1e-4, weight_decay=0.0)
    address = parameter.data_ptr()
    for _ in range(100):
        for p in (parameter, plain):
            p.grad = torch.ones_like(p)
        ours.step()
        theirs.step()
    assert torch.equal(plain, torch.ones_like(plain))  # every update rounded away
    torch.testing.assert_close(parameter.float(), torch.full((64,), 0.99), rtol=0, atol=4e-3)
    assert parameter.data_ptr() == address


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_gradient_changes_nothing(bad):
    parameter = nn.Parameter(torch.ones(4))
    optimizer = PolicyOptimizer([parameter], learning_rate=0.1, **SETTINGS)
    parameter.grad = torch.tensor([1.0, bad, 1.0, 1.0])
    norm = optimizer.step()
    assert not torch.isfinite(torch.tensor(norm))
    assert torch.equal(parameter, torch.ones(4)) and parameter.grad is None
    assert optimizer.num_steps == 0


def test_warmup_is_linear_and_then_constant():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = PolicyOptimizer([parameter], learning_rate=1.0, warmup_steps=4, **SETTINGS)
    rates = []
    for _ in range(6):
        rates.append(optimizer.learning_rate)
        parameter.grad = torch.ones(1)
        optimizer.step()
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
