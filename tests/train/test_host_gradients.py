"""Gradients in host memory: what their sums are, and how few of them are alive."""

import weakref
from functools import partial

import pytest
import torch
from optimizers import optimizer_of
from policies import freeze, tiny
from rollouts import make_rollouts
from torch import nn

from nsr_fast.config_groups import OptimizerKeys
from nsr_fast.model.batch import minibatches_of
from nsr_fast.objective import Objective
from nsr_fast.train import host_gradients
from nsr_fast.train.host_gradients import HostGradients, OwnGradients
from nsr_fast.train.optimizer import PolicyOptimizer
from nsr_fast.train.step import accumulate_gradients

CPU = torch.device("cpu")
LENGTHS = [7, 19, 33, 5, 12, 30]
BUDGETS = {"one pass": 1000, "three passes": 50}
ON_POLICY = Objective.w_reinforce(entropy_coef=0.01)


def alive_at_most(policy, gradients, batches):
    """(bytes of gradients alive at most while a pass runs, bytes of all gradients).

    Seen by a hook that runs before those of `gradients`, and after the head's pass; tensors that
    left .grad count for as long as something holds on to them.
    """
    seen, peak = [], 0
    for p in policy.parameters():
        assert p.grad is None
    storages = {}

    def look(_):
        nonlocal peak
        for p in policy.parameters():
            if p.grad is not None:
                storage = p.grad.untyped_storage()
                storages[storage.data_ptr()] = (weakref.ref(p.grad), storage.nbytes())
        alive = {at: size for at, (grad, size) in storages.items() if grad() is not None}
        peak = max(peak, sum(alive.values()))
        seen.append(len(alive))

    handles = [p.register_post_accumulate_grad_hook(look) for p in policy.parameters()]
    kept = gradients(policy.named_parameters())
    accumulate_gradients(policy, batches, ON_POLICY, 0.9, gradients=kept)
    assert len(seen) >= len(batches) * (len(handles) - 1)  # an untied head has no hook
    assert len(kept.take()) == len(handles)
    return peak, sum(p.nbytes for p in policy.parameters())


@pytest.mark.parametrize("is_tied", [True, False])
def test_few_gradients_are_alive_at_a_time(is_tied):
    (batches,) = minibatches_of(make_rollouts(LENGTHS), 1, BUDGETS["three passes"], CPU)
    options = {"is_tied": is_tied, "layers": 8}
    peak, whole = alive_at_most(tiny(**options), OwnGradients, batches)
    assert peak >= whole  # what is counted is there
    peak, whole = alive_at_most(tiny(**options), HostGradients, batches)
    assert 0 < peak <= 0.1 * whole


@pytest.mark.parametrize("is_tied", [True, False])
def test_no_gradient_is_left_on_a_parameter(is_tied):
    policy = freeze(tiny(is_tied=is_tied), ["norm"])
    kept = HostGradients([(n, p) for n, p in policy.named_parameters() if p.requires_grad])
    (batches,) = minibatches_of(make_rollouts(LENGTHS), 1, 1000, CPU)
    accumulate_gradients(policy, batches, ON_POLICY, 0.9, gradients=kept)
    assert all(p.grad is None for p in policy.parameters())
    assert not [name for name in kept.take() if "norm" in name]
    kept.clear()
    assert kept.take() == {}


@pytest.mark.parametrize("is_tied", [True, False])
def test_bfloat16_passes_are_summed_in_float32(is_tied):
    """.grad of a bfloat16 parameter sums them in bfloat16, but for the head's."""
    (batches,) = minibatches_of(make_rollouts(LENGTHS), 1, 24, CPU)
    assert len(batches) > 4

    def sums(kind):
        policy = tiny(is_tied=is_tied, dtype=torch.bfloat16)
        exact = dict.fromkeys((name for name, _ in policy.named_parameters()), 0.0)

        def add(name, p):  # before HostGradients takes the pass's gradient
            exact[name] = exact[name] + p.grad.double()

        for name, p in policy.named_parameters():
            p.register_post_accumulate_grad_hook(partial(add, name))
        kept = kind(policy.named_parameters())
        accumulate_gradients(policy, batches, ON_POLICY, 0.9, gradients=kept)
        return {name: grad.double() for name, grad in kept.take().items()}, exact

    (own, _), (host, exact) = (sums(kind) for kind in (OwnGradients, HostGradients))
    head = "model.embed_tokens.weight" if is_tied else "lm_head.weight"
    assert torch.equal(own.pop(head), host.pop(head))
    for name in own:
        size = float(exact[name].norm())
        errors = [float((x[name] - exact[name]).norm()) / size for x in (own, host)]
        assert errors[1] < 1e-6 and 1e-3 < errors[0] < 1e-2, (name, errors)


def host_optimizer(parameters, **keys):
    named = [(str(index), parameter) for index, parameter in enumerate(parameters)]
    keys = {"learning_rate": 1e-2, **keys}
    return PolicyOptimizer(named, OptimizerKeys(**keys), offload="gradients")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_gradient_changes_nothing_and_is_forgotten(bad):
    ours, plain = (nn.Parameter(torch.linspace(1, 2, 6)) for _ in range(2))
    optimizer, reference = host_optimizer([ours]), optimizer_of([plain], learning_rate=1e-2)
    factor = torch.ones(6)
    factor[2] = bad
    (ours * factor).sum().backward()
    norm = optimizer.step()
    assert norm != norm or norm == float("inf")
    assert torch.equal(ours, plain) and optimizer.num_steps == 0
    state = optimizer.state_dict()["parameters"]["0"]
    assert not state["exp_avg"].any() and not state["exp_avg_sq"].any()
    for optimizer_, parameter in ((optimizer, ours), (reference, plain)):
        (parameter * torch.arange(6.0)).sum().backward()
        optimizer_.step()
    assert torch.equal(ours, plain) and optimizer.num_steps == 1


def test_gradients_of_a_pass_that_failed_can_be_dropped(monkeypatch):
    """As after running out of memory in the backward pass: drop, do it again."""
    monkeypatch.setattr(host_gradients, "_PIECE_BYTES", 4000)
    (batches,) = minibatches_of(make_rollouts(LENGTHS), 1, BUDGETS["three passes"], CPU)
    policy = tiny(is_tied=True)
    kept = HostGradients(policy.named_parameters())
    accumulate_gradients(policy, batches, ON_POLICY, 0.9, gradients=kept)
    expected = {name: grad.clone() for name, grad in kept.take().items()}
    kept.clear()

    def fail(*_):
        raise torch.OutOfMemoryError("here")

    for module in (policy.model.layers[0].mlp, policy.model.norm):
        handle = module.register_full_backward_hook(fail)
        with pytest.raises(torch.OutOfMemoryError):
            accumulate_gradients(policy, batches[:2], ON_POLICY, 0.9, gradients=kept)
        handle.remove()
        kept.clear()
        accumulate_gradients(policy, batches, ON_POLICY, 0.9, gradients=kept)
        found = kept.take()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        kept.clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumed_steps_equal_uninterrupted_ones_and_those_of_the_plain_state(tmp_path, dtype):
    def run(parameter, optimizer, steps):
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            factor = torch.randn(9, 5, generator=generator).to(dtype)
            (parameter * factor).sum().backward()
            optimizer.step()

    start = torch.linspace(-1, 1, 45).view(9, 5).to(dtype)
    whole = nn.Parameter(start.clone())
    run(whole, host_optimizer([whole]), range(6))
    first = nn.Parameter(start.clone())
    optimizer = host_optimizer([first])
    run(first, optimizer, range(3))
    torch.save({"weight": first, "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    for resume in (host_optimizer, lambda ps: optimizer_of(ps, learning_rate=1e-2)):
        saved = torch.load(tmp_path / "state.pt")
        second = nn.Parameter(saved["weight"].detach().clone())
        resumed = resume([second])
        resumed.load_state_dict(saved["optimizer"])
        run(second, resumed, range(3, 6))
        assert torch.equal(second, whole) and not torch.equal(second, first)
