"""AdamW in 3 bytes on a GPU: CUDA and Triton against the bits of the CPU reference."""

import pytest
import torch
from adamw_8bit_cases import VARIANTS, check_all, check_bits, check_scale_on_the_device
from optimizers import optimizer_of
from torch import nn

from nsr_fast.kernels.adamw_8bit import adamw_8bit_step_, num_blocks, step_function
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
        pytest.fail(f"backend {request.param}: {reason}")
    return request.param


def test_bits_of_the_reference(backend):
    step_ = step_function(backend, torch.device("cuda"), torch.float32)
    check_all(step_, device="cuda")
    check_scale_on_the_device(step_, device="cuda")
    for variant in VARIANTS:
        check_bits(step_, 1_000_003, variant, device="cuda")


def test_more_than_two_to_the_31_elements(backend):
    """Pieces: the last element of a tensor that 32 bits cannot index."""
    count = 2**31 + 5
    weight = torch.zeros(count, dtype=HALF, device="cuda")
    grad = torch.ones_like(weight)
    code = torch.zeros(count, dtype=torch.int8, device="cuda")
    absmax = torch.zeros(num_blocks(count), device="cuda")
    v = torch.zeros(count, dtype=HALF, device="cuda")
    numbers = {"step": 1, "learning_rate": 0.5, "eps": 0.0, "seed": 0, "backend": backend}
    adamw_8bit_step_(weight, grad, code, absmax, v, **numbers)
    for part in weight.split(1 << 28):
        assert bool((part == -0.5).all())
    assert bool((code == -128).all()) and bool((absmax == absmax[0]).all())


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_optimizer_steps_alike_on_device_and_host(dtype):
    torch.manual_seed(0)
    start = [torch.randn(300, 70).to(dtype), torch.randn(11).to(dtype)]
    sets = [[nn.Parameter(x.clone().cuda()) for x in start] for _ in range(2)]
    keys = {"learning_rate": 1e-3, "weight_decay": 0.1, "max_grad_norm": 1.0, "optim": "adamw_8bit"}
    optimizers = [
        optimizer_of(parameters, **keys, offload=offload)
        for parameters, offload in zip(sets, ("none", "optimizer"))
    ]
    for _ in range(3):
        grads = [torch.randn(x.shape).to(dtype).cuda() for x in start]
        for parameters, optimizer in zip(sets, optimizers):
            for parameter, grad in zip(parameters, grads):
                parameter.grad = grad.clone()
            optimizer.step()
    for here, there in zip(*sets):
        assert torch.equal(here, there)
    state = optimizers[1].state_dict()["parameters"]["0"]
    assert state["exp_avg"].device.type == state["absmax"].device.type == "cpu"
