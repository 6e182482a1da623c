"""PolicyOptimizer: equality with AdamW, bfloat16 masters, bad gradients, warm-up, resumption."""

import copy

import pytest
import torch
from optimizers import optimizer_of
from torch import nn

from nsr_fast.config import Config
from nsr_fast.train.optimizer import Staging, step_on_device_, step_on_host_

SETTINGS = {"weight_decay": 0.01, "max_grad_norm": 1.0}
HALF = torch.bfloat16
PLACES = {
    "device": {},
    "host": {"offload": "optimizer"},
    "stochastic": {"master_weights": "stochastic"},
    "8-bit": {"optim": "adamw_8bit"},
    "8-bit on the host": {"optim": "adamw_8bit", "offload": "optimizer"},
}


def test_float32_steps_equal_clipped_adamw():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.full((5, 3), 0.05)) for _ in range(2))
    optimizer = optimizer_of([ours], learning_rate=1e-2, **SETTINGS)
    reference = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.01)
    for _ in range(100):
        gradient = torch.randn(5, 3) * 4
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        norm = optimizer.step()
        assert norm == pytest.approx(float(gradient.norm()), rel=1e-5)
        nn.utils.clip_grad_norm_([theirs], 1.0)
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("place", PLACES)
def test_bfloat16_parameters_keep_updates_of_1e_6_that_plain_adamw_loses(place):
    start = torch.full((10_000,), 0.02, dtype=HALF)
    parameter, plain = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"learning_rate": 1e-6, "weight_decay": 0.0, "max_grad_norm": 1e9}
    ours = optimizer_of([parameter], **settings, **PLACES[place])
    theirs = torch.optim.AdamW([plain], lr=1e-6, weight_decay=0.0)
    address = parameter.data_ptr()
    for _ in range(100):
        for p in (parameter, plain):
            p.grad = torch.ones_like(p)
        ours.step()
        theirs.step()
    assert torch.equal(plain, start)  # every update rounded away
    moved = (parameter.double() - start.double()).mean().item()
    if place not in ("device", "host"):  # stochastic: 0.82 bfloat16 gaps of 1.2e-4 on average
        assert abs(moved + 1e-4) < 5 * 2.0**-13 * (0.82 / 10_000) ** 0.5
    else:
        assert abs(moved + 1e-4) < 2.0**-14 and moved == -(2.0**-13)
        master = ours.state_dict()["parameters"]["0"]["master"].double()
        assert (master - (start.double() - 1e-4)).abs().max() < 1e-7
    assert parameter.data_ptr() == address


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_step_on_the_host_equals_the_step_in_place(dtype):
    """The copies of offload: optimizer, with both ends on the CPU."""
    torch.manual_seed(0)
    start = [torch.randn(5, 7).to(dtype), torch.randn(40).to(dtype), torch.randn(2, 3).to(dtype)]
    ours, hosted = ([nn.Parameter(x.clone()) for x in start] for _ in range(2))
    staging = Staging()
    optimizers = [optimizer_of(ps, learning_rate=1.0, **SETTINGS) for ps in (ours, hosted)]
    states = [optimizer._states.values() for optimizer in optimizers]
    for state in states[1]:
        if dtype == torch.float32:
            state.master = state.parameter.detach().clone()  # as for a parameter on a device
    numbers = {"learning_rate": 1e-2, "weight_decay": 0.1, "grad_scale": 0.5}
    for _ in range(3):
        for here, there in zip(*states):
            grad = torch.randn(here.parameter.shape).to(dtype)
            step_on_device_(here, grad, **numbers)
            step_on_host_(there, staging.like("grad", grad).copy_(grad), staging, **numbers)
            assert torch.equal(here.parameter, there.parameter)
            assert torch.equal(here.exp_avg_sq, there.exp_avg_sq)
            here.num_steps += 1
            there.num_steps += 1
    assert all(not torch.equal(p, x) for p, x in zip(ours, start))


def test_float32_gradients_of_bfloat16_parameters():
    """As accumulate_into_grad makes them: not rounded to bfloat16 on the way."""
    parameter = nn.Parameter(torch.full((4,), 2.0, dtype=HALF))
    parameter.grad_dtype = torch.float32
    optimizer = optimizer_of([parameter], learning_rate=0.5, weight_decay=0.0, max_grad_norm=9.0)
    gradient = torch.tensor([1.0, 1.001, -1.002, 3.0])
    parameter.grad = gradient.clone()
    assert optimizer.step() == pytest.approx(gradient.double().norm().item(), rel=1e-6)
    assert torch.equal(parameter, torch.tensor([1.5, 1.5, 2.5, 1.5], dtype=HALF))
    exp_avg = optimizer.state_dict()["parameters"]["0"]["exp_avg"]
    torch.testing.assert_close(exp_avg, 0.1 * gradient)


def test_rows_of_a_fused_tensor_are_written_in_place():
    fused = torch.ones(6, 3, dtype=HALF)  # as an engine holds q, k and v
    parts = [nn.Parameter(fused[:3]), nn.Parameter(fused[3:4]), nn.Parameter(fused[4:])]
    optimizer = optimizer_of(parts, learning_rate=0.25, weight_decay=0.0, max_grad_norm=1.0)
    parts[1].grad = torch.ones(1, 3, dtype=HALF)
    optimizer.step()
    assert fused[:, 0].tolist() == [1.0, 1.0, 1.0, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("place", PLACES)
def test_resumed_steps_equal_uninterrupted_ones_bit_for_bit(tmp_path, dtype, place):
    def gradients():
        generator = torch.Generator().manual_seed(1)
        return [[torch.randn(9, 5, generator=generator), None] for _ in range(6)]

    def run(parameters, optimizer, steps):
        for grads in steps:
            for parameter, grad in zip(parameters, grads):
                parameter.grad = None if grad is None else grad.to(dtype)
            optimizer.step()

    settings = {"learning_rate": 1e-3, "warmup_steps": 4, **SETTINGS}
    settings |= PLACES[place]
    start = [torch.linspace(-1, 1, 45).view(9, 5).to(dtype), torch.ones(3, dtype=dtype)]
    whole = [nn.Parameter(x.clone()) for x in start]
    run(whole, optimizer_of(whole, seed=5, **settings), gradients())

    first = [nn.Parameter(x.clone()) for x in start]
    optimizer = optimizer_of(first, seed=5, **settings)
    run(first, optimizer, gradients()[:3])
    torch.save({"weights": first, "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt")
    second = [nn.Parameter(p.detach().clone()) for p in saved["weights"]]
    resumed = optimizer_of(second, seed=99, **settings)
    resumed.load_state_dict(saved["optimizer"])
    assert resumed.num_steps == 3 and resumed.learning_rate == 1e-3
    run(second, resumed, gradients()[3:])
    assert torch.equal(whole[0], second[0]) and not torch.equal(whole[0], first[0])
    assert torch.equal(second[1], start[1])  # never had a gradient


def test_a_state_of_other_parameters_is_refused():
    def optimizer(*shapes, **options):
        parameters = [nn.Parameter(torch.ones(shape, dtype=HALF)) for shape in shapes]
        return optimizer_of(parameters, learning_rate=1.0, **SETTINGS, **options)

    saved = optimizer((2, 3), (4,)).state_dict()
    with pytest.raises(ValueError, match="policy's 1 parameters, got 2; 1 is in the saved"):
        optimizer((2, 3)).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"1: expected \[5\], got \[4\]"):
        optimizer((2, 3), (5,)).load_state_dict(saved)
    stochastic = optimizer((2, 3), (4,), master_weights="stochastic")
    with pytest.raises(ValueError, match="with a master; resume with master_weights: device, or"):
        stochastic.load_state_dict(saved)
    with pytest.raises(ValueError, match="without a master; resume with master_weights: stochas"):
        optimizer((2, 3), (4,)).load_state_dict(stochastic.state_dict())


def test_stochastic_steps_differ_between_parameters_and_seeds():
    def weights(seed):
        parameters = [nn.Parameter(torch.ones(500, dtype=HALF)) for _ in range(2)]
        settings = {"weight_decay": 0.0, "max_grad_norm": 1e9, "master_weights": "stochastic"}
        optimizer = optimizer_of(parameters, learning_rate=1e-3, seed=seed, **settings)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return parameters

    (a, b), (c, _), (again, _) = weights(0), weights(1), weights(0)
    assert torch.equal(a, again) and not torch.equal(a, b) and not torch.equal(a, c)


def test_parameters_the_kernels_cannot_step_are_refused():
    for bad in (torch.ones(2, 3).half(), torch.ones(2, 3).t()):
        with pytest.raises(ValueError, match="0: expected contiguous float32 or bfloat16"):
            optimizer_of([nn.Parameter(bad)], learning_rate=1.0, **SETTINGS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_non_finite_gradient_changes_nothing(bad, dtype):
    parameter = nn.Parameter(torch.ones(4, dtype=dtype))
    optimizer = optimizer_of([parameter], learning_rate=0.1, **SETTINGS)
    before = copy.deepcopy(optimizer.state_dict())
    parameter.grad = torch.tensor([1.0, bad, 1.0, 1.0]).to(dtype)
    norm = optimizer.step()
    assert not torch.isfinite(torch.tensor(norm))
    assert torch.equal(parameter, torch.ones_like(parameter)) and parameter.grad is None
    after = optimizer.state_dict()
    assert after["num_steps"] == 0 and after["parameters"]["0"]["num_steps"] == 0
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(after["parameters"]["0"][name], before["parameters"]["0"][name])


def test_large_gradients_are_clipped_to_the_norm():
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = optimizer_of([parameter], learning_rate=1.0, weight_decay=0.0, max_grad_norm=0.5)
    parameter.grad = torch.tensor([3e8, 4e8])
    assert optimizer.step() == pytest.approx(5e8)
    exp_avg = optimizer.state_dict()["parameters"]["0"]["exp_avg"]
    torch.testing.assert_close(exp_avg, torch.tensor([0.03, 0.04]))


def test_warmup_is_linear_and_then_constant():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = optimizer_of([parameter], learning_rate=1.0, warmup_steps=4, **SETTINGS)
    rates = []
    for _ in range(6):
        rates.append(optimizer.learning_rate)
        parameter.grad = torch.ones(1)
        optimizer.step()
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_config_names_the_masters():
    required = {"model": "m", "data": "d", "output_dir": "o"}
    assert Config.from_flat(required).optimizer.master_weights == "device"
    with pytest.raises(ValueError, match="'device' or 'stochastic'"):
        Config.from_flat({**required, "master_weights": "none"})
