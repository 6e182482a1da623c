"""AdamW on a GPU: CUDA and Triton against the bits of the CPU reference, and the optimizer."""

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
from optimizers import optimizer_of
from torch import nn

from nsr_fast.kernels.adamw import adamw_step_, gradient_norm, step_function
from nsr_fast.kernels.rows import available_backends

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
HALF = torch.bfloat16


@pytest.fixture(params=["cuda", "triton"])
def backend(request) -> str:
    reason = available_backends()[request.param]
    if reason is not None:
        # The suite exists to prove the kernels: a machine that lacks one must say so loudly.
        pytest.fail(f"backend {request.param}: {reason}")
    return request.param


def test_bits_of_the_reference(backend):
    step_ = step_function(backend, torch.device("cuda"), torch.float32)
    check_every_size_and_alignment(step_, sizes=(1, 3, 7, 64, 1025, 100_003), device="cuda")
    check_non_finite(step_, device="cuda")
    check_extreme_rounding(step_, device="cuda")
    for variant in VARIANTS:
        check_bits(step_, 1_000_003, variant, device="cuda")


def test_gradient_scale_on_the_device(backend):
    step_ = step_function(backend, torch.device("cuda"), torch.float32)
    for variant in VARIANTS:
        results = []
        for scale in (0.3125, torch.tensor(0.3125).cuda(), torch.tensor(torch.nan).cuda()):
            s = state(70, variant, device="cuda")
            step_(*s.tensors(), scalars(2, seed=seed_of(variant), grad_scale=scale))
            results.append(s.outputs())
        untouched = state(70, variant, device="cuda").outputs()
        assert all(torch.equal(a, b) for a, b in zip(results[0], results[1]))
        assert all(torch.equal(a, b) for a, b in zip(results[2], untouched))


def test_hundred_steps_equal_torch(backend):
    torch.manual_seed(0)
    ours = torch.randn(5000, device="cuda") * 0.05
    theirs = ours.clone().requires_grad_()
    m, v = torch.zeros_like(ours), torch.zeros_like(ours)
    torch_adamw = torch.optim.AdamW([theirs], lr=1e-3, weight_decay=0.01)
    for step in range(1, 101):
        theirs.grad = torch.randn(5000, device="cuda")
        torch_adamw.step()
        numbers = {"step": step, "learning_rate": 1e-3, "weight_decay": 0.01}
        adamw_step_(ours, theirs.grad, m, v, **numbers, backend=backend)
    assert (ours - theirs).abs().max() <= 1e-6


def test_more_than_two_to_the_31_elements(backend):
    """Pieces: the last element of a tensor that 32 bits cannot index."""
    count = 2**31 + 5
    weight = torch.zeros(count, dtype=HALF, device="cuda")
    grad = torch.ones_like(weight)
    m, v = (torch.zeros(count, device="cuda") for _ in range(2))
    numbers = {"step": 1, "learning_rate": 0.5, "eps": 0.0}
    adamw_step_(weight, grad, m, v, **numbers, seed=0, backend=backend)
    for part in weight.split(1 << 28):
        assert bool((part == -0.5).all())


def test_kernels_run_on_the_current_stream(backend):
    numbers = {"step": 1, "learning_rate": 0.5, "eps": 0.0, "backend": backend}
    weight, grad, m, v = (torch.zeros(10_000, device="cuda") for _ in range(4))
    adamw_step_(weight.clone(), grad, m, v, **numbers)  # loaded before
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a kernel on another stream would overtake the fill
        grad.fill_(1.0)
        adamw_step_(weight, grad, m.zero_(), v.zero_(), **numbers)
    stream.synchronize()
    torch.testing.assert_close(weight, torch.full_like(weight, -0.5))


def test_gradient_norm_is_that_of_float64():
    grads = [torch.randn(n, device="cuda") for n in (3_000_001, 7)]
    exact = torch.cat([x.double() for x in grads]).norm().item()
    assert float(gradient_norm(grads)) == pytest.approx(exact, rel=1e-5)
    halves = [x.to(HALF) for x in grads]
    exact = torch.cat([x.double() for x in halves]).norm().item()
    assert float(gradient_norm(halves)) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_optimizer_steps_alike_with_masters_on_device_and_host(dtype):
    torch.manual_seed(0)
    start = [torch.randn(300, 70).to(dtype), torch.randn(11).to(dtype)]
    sets = [[nn.Parameter(x.clone().cuda()) for x in start] for _ in range(2)]
    optimizers = [
        optimizer_of(
            parameters,
            learning_rate=1e-3,
            weight_decay=0.1,
            max_grad_norm=1.0,
            offload=offload,
        )
        for parameters, offload in zip(sets, ("none", "optimizer"))
    ]
    addresses = [p.data_ptr() for p in sets[1]]
    for step in range(5):
        grads = [torch.randn(x.shape).to(dtype).cuda() for x in start]
        if step == 2:
            grads[0][3, 3] = torch.inf
        for parameters, optimizer in zip(sets, optimizers):
            for parameter, grad in zip(parameters, grads):
                parameter.grad = grad.clone()
            optimizer.step()
        for here, there in zip(*sets):
            assert torch.equal(here, there)
    assert [o.num_steps for o in optimizers] == [4, 4]
    assert addresses == [p.data_ptr() for p in sets[1]]
    hosted = optimizers[1].state_dict()["parameters"][0]
    assert hosted["exp_avg"].device.type == "cpu"
    optimizers[0].load_state_dict(optimizers[1].state_dict())
    assert not torch.equal(sets[0][0].cpu(), start[0])
