"""PolicyOptimizer with optim: adamw_8bit: its state, where it lies, its blocks, the other kind."""

import pytest
import torch
from optimizers import optimizer_of
from torch import nn

from nsr_fast.config_groups import OptimizerKeys
from nsr_fast.kernels.adamw_8bit import adamw_8bit_step_
from nsr_fast.train.optimizer import PolicyOptimizer

SETTINGS = {"learning_rate": 1e-2, "weight_decay": 0.01, "max_grad_norm": 1e9}
HALF = torch.bfloat16
SHAPES = [(30, 70), (11,), (3, 256)]


def parameters_of(dtype: torch.dtype) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=g).to(dtype)) for shape in SHAPES]


def stepped(parameters, optimizer, steps: int = 3) -> list[torch.Tensor]:
    """Returns the gradients of the last step."""
    g = torch.Generator().manual_seed(1)
    for _ in range(steps):
        grads = [torch.randn(p.shape, generator=g).to(p.dtype) for p in parameters]
        for p, grad in zip(parameters, grads):
            p.grad = grad.clone()
        optimizer.step()
    return grads


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_the_state_is_three_bytes_a_parameter_and_has_no_master(dtype):
    parameter = nn.Parameter(torch.ones(300, 1000, dtype=dtype))
    optimizer = optimizer_of([parameter], **SETTINGS, optim="adamw_8bit")
    state = optimizer.state_dict()["parameters"]["0"]
    tensors = [x for x in state.values() if isinstance(x, torch.Tensor)]
    num_bytes = sum(x.numel() * x.element_size() for x in tensors)
    assert num_bytes / parameter.numel() == pytest.approx(3.0156, abs=1e-4)
    assert state["master"] is None


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_steps_are_those_of_the_kernel_with_a_seed_for_each_parameter(dtype):
    ours, theirs = parameters_of(dtype), parameters_of(dtype)
    optimizer = optimizer_of(ours, **SETTINGS, optim="adamw_8bit", seed=7)
    grads = stepped(ours, optimizer, 1)
    saved = optimizer.state_dict()["parameters"].values()
    for index, (p, grad, state) in enumerate(zip(theirs, grads, saved)):
        code, absmax = torch.zeros(p.shape, dtype=torch.int8), torch.zeros(-(-p.numel() // 256))
        v = torch.zeros(p.shape, dtype=HALF)
        numbers = {"step": 1, "learning_rate": 1e-2, "weight_decay": 0.01}
        adamw_8bit_step_(p.detach(), grad, code, absmax, v, seed=7 + (index << 32), **numbers)
        assert torch.equal(p, ours[index])
        assert torch.equal(state["exp_avg"], code) and torch.equal(state["exp_avg_sq"], v)
        assert torch.equal(state["absmax"], absmax)


@pytest.mark.parametrize("offload", ["optimizer", "gradients"])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_state_on_the_host_gives_the_same_bits(dtype, offload):
    sets = [parameters_of(dtype) for _ in range(2)]
    keys = {"optim": "adamw_8bit", "seed": 7}
    optimizers = [
        optimizer_of(sets[0], **SETTINGS, **keys),
        optimizer_of(sets[1], **SETTINGS, **keys, offload=offload),
    ]
    g = torch.Generator().manual_seed(3)
    for _ in range(3):
        for shape, pair in zip(SHAPES, zip(*sets)):
            grad = torch.randn(shape, generator=g).to(dtype)
            for p in pair:
                (p * grad).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    for here, there in zip(*sets):
        assert torch.equal(here, there)
    states = [optimizer.state_dict()["parameters"] for optimizer in optimizers]
    for here, there in zip(states[0].values(), states[1].values()):
        assert all(torch.equal(here[k], there[k]) for k in ("exp_avg", "exp_avg_sq", "absmax"))
    optimizers[0].load_state_dict(optimizers[1].state_dict())  # they may be exchanged


@pytest.mark.parametrize("offload", ["none", "optimizer"])
def test_leading_rows_are_stepped_in_their_own_blocks(offload):
    """7 of 12 rows of 77: the third block is stepped in part, the fourth not."""
    whole, alone = nn.Parameter(torch.ones(12, 77)), nn.Parameter(torch.ones(7, 77))
    keys = OptimizerKeys(**SETTINGS, optim="adamw_8bit")
    cut = PolicyOptimizer([("p", whole)], keys, num_rows={"p": 7}, offload=offload)
    plain = PolicyOptimizer([("p", alone)], keys, offload=offload)
    g = torch.Generator().manual_seed(0)
    for _ in range(3):
        grad = torch.randn(12, 77, generator=g)
        whole.grad, alone.grad = grad.clone(), grad[:7].clone()
        cut.step()
        plain.step()
    assert torch.equal(whole[:7], alone) and (whole[7:] == 1).all()
    ours, theirs = (o.state_dict()["parameters"]["p"] for o in (cut, plain))
    assert len(ours["absmax"]) == 4 and len(theirs["absmax"]) == 3
    assert torch.equal(ours["absmax"][:3], theirs["absmax"]) and ours["absmax"][3] == 0
    assert torch.equal(ours["exp_avg"][:7], theirs["exp_avg"])
    assert (ours["exp_avg"][7:] == 0).all() and (ours["exp_avg_sq"][7:] == 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_gradient_that_is_not_finite_changes_nothing(bad, dtype):
    parameters = parameters_of(dtype)
    optimizer = optimizer_of(parameters, **SETTINGS, optim="adamw_8bit")
    stepped(parameters, optimizer)
    state = {
        name: {k: x.clone() if isinstance(x, torch.Tensor) else x for k, x in each.items()}
        for name, each in optimizer.state_dict()["parameters"].items()
    }
    before = [p.detach().clone() for p in parameters]
    for p in parameters:
        p.grad = torch.ones_like(p)
    parameters[1].grad[3] = bad
    assert not torch.isfinite(torch.tensor(optimizer.step()))
    assert all(torch.equal(a, b) for a, b in zip(parameters, before))
    for name, each in optimizer.state_dict()["parameters"].items():
        assert each["num_steps"] == 3
        assert all(torch.equal(each[k], state[name][k]) for k in ("exp_avg", "absmax"))
        assert torch.equal(each["exp_avg_sq"], state[name]["exp_avg_sq"])


def test_a_state_of_the_other_kind_is_refused_by_the_key():
    plain, eight = (
        optimizer_of(parameters_of(HALF), **SETTINGS, optim=optim)
        for optim in ("adamw", "adamw_8bit")
    )
    with pytest.raises(ValueError, match=r"^optim: expected adamw, the kind of the saved "):
        eight.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match=r"resume with optim: adamw_8bit$"):
        plain.load_state_dict(eight.state_dict())
    old = plain.state_dict()
    for each in old["parameters"].values():
        del each["absmax"]  # as a state was saved before there was a choice
    plain.load_state_dict(old)
