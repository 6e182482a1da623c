"""Out of memory in an update: the gradient and the step are those of the run without it."""

import copy
import dataclasses

import pytest
import torch
from optimizers import optimizer_of
from rollouts import make_rollouts
from transformers import AutoModelForCausalLM

from nsr_fast.errors import GuardStop
from nsr_fast.model.attention import PACKED_ATTENTION
from nsr_fast.model.batch import minibatches_of
from nsr_fast.objective import Objective
from nsr_fast.train.passes import PassBudget
from nsr_fast.train.step import update_policy

CPU = torch.device("cpu")
ON_POLICY = Objective.w_reinforce(entropy_coef=0.01)
SEVERAL = dataclasses.replace(ON_POLICY, minibatches=2)
LENGTHS = [30, 26, 22, 18, 14, 10, 6, 2]
CPU_ERROR = "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 9"


def load(folder):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=PACKED_ATTENTION
    ).train()


class Failing:
    """Lets the n-th call of one place of the real model raise, once or whenever `too_long` says."""

    def __init__(self, model, place, nth=None, *, fits=None, error=None):
        self.nth, self.fits, self.count, self.raised = nth, fits, 0, 0
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        layer = model.model.layers[-1]
        if place == "forward":
            self.handles = [
                layer.mlp.register_forward_pre_hook(lambda module, args: self.look(args))
            ]
        else:  # the trunk's backward: the head's gradient is in .grad by then
            self.handles = [layer.mlp.register_full_backward_hook(lambda m, g, out: self.look(out))]

    def look(self, tensors):
        self.count += 1
        tokens = tensors[0].shape[1]
        if self.count == self.nth or (self.fits is not None and tokens > self.fits):
            self.raised += 1
            raise type(self.error)(str(self.error))  # one kept here would keep its traceback

    def stop(self):
        for handle in self.handles:
            handle.remove()


def updated(model, objective, budget=None, tokens=60):
    """(gradients before every step, what the update added to the weights, its metrics)."""
    optimizer = optimizer_of(model.parameters(), learning_rate=1e-3)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    seen, step = [], optimizer.step

    def watched():
        seen.append({n: p.grad.clone() for n, p in model.named_parameters()})
        return step()

    optimizer.step = watched
    rollouts = make_rollouts(LENGTHS)
    minibatches = minibatches_of(rollouts, objective.minibatches, tokens, CPU)
    metrics = update_policy(model, optimizer, minibatches, objective, 0.9, budget=budget)
    steps = {n: p.detach() - before[n] for n, p in model.named_parameters()}
    return seen, steps, metrics


def assert_same(found, expected):
    for index, (got, want) in enumerate(zip(found[0], expected[0], strict=True)):
        error, size = (
            torch.cat([gradient.flatten() for gradient in each]).norm()
            for each in ([got[n] - want[n] for n in want], want.values())
        )
        assert error <= (1e-4 if index else 1e-6) * size  # AdamW's first step lies between
    for name, change in expected[1].items():
        assert (found[1][name] - change).norm() <= 1e-3 * change.norm(), name
    for field in ("loss", "grad_norm", "entropy_trained", "drift_mean", "drift_max"):
        assert getattr(found[2], field) == pytest.approx(getattr(expected[2], field), rel=1e-5)
    assert found[2].trained_tokens == expected[2].trained_tokens == sum(LENGTHS)


@pytest.mark.parametrize("place", ["forward", "backward"])
@pytest.mark.parametrize("objective", [ON_POLICY, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize("family", ["qwen2", "llama"])  # tied, untied
def test_a_failure_at_any_pass_changes_nothing(checkpoint, family, objective, place):
    model = load(checkpoint(family))
    probe = copy.deepcopy(model)
    counter = Failing(probe, place)
    expected = updated(probe, objective)
    counts = counter.count
    assert counts >= 3
    for nth in range(1, counts + 1):
        trial = copy.deepcopy(model)
        failing, budget = Failing(trial, place, nth), PassBudget(60)
        found = updated(trial, objective, budget)
        failing.stop()
        assert failing.raised == 1 and budget.num_failures == 1
        assert_same(found, expected)
        notes, largest = budget.read()
        assert len(notes) == 1 and "out of memory in a pass of" in notes[0]
        assert 0 < largest <= 60 and budget.read() == ([], 0)


def test_the_budget_is_halved_until_it_fits_and_stays(checkpoint):
    model = load(checkpoint("qwen2"))
    expected = updated(copy.deepcopy(model), ON_POLICY, tokens=1000)
    failing, budget = Failing(model, "forward", fits=40), PassBudget(1000)
    found = updated(model, ON_POLICY, budget, tokens=1000)
    total = sum(LENGTHS) + 4 * len(LENGTHS)
    assert total == 160 and failing.raised == 2 and budget.tokens == 32
    assert not model.is_gradient_checkpointing
    assert_same(found, expected)
    assert budget.read()[1] <= 40


def test_the_cpu_allocators_error_is_one(checkpoint):
    model = load(checkpoint("qwen2"))
    expected = updated(copy.deepcopy(model), ON_POLICY)
    failing = Failing(model, "forward", 2, error=RuntimeError(CPU_ERROR))
    found = updated(model, ON_POLICY, PassBudget(60))
    assert failing.raised == 1
    assert_same(found, expected)


def test_another_error_is_not_swallowed(checkpoint):
    model = load(checkpoint("qwen2"))
    Failing(model, "forward", 2, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        updated(model, ON_POLICY, PassBudget(60))


def test_one_sequence_too_long_turns_checkpointing_on(checkpoint):
    model = load(checkpoint("llama"))
    expected = updated(copy.deepcopy(model), ON_POLICY)
    failing, budget = Failing(model, "forward", 1), PassBudget(1)
    found = updated(model, ON_POLICY, budget, tokens=1)
    assert failing.raised == 1 and model.is_gradient_checkpointing and budget.tokens == 1
    assert "gradient_checkpointing is on" in budget.read()[0][0]
    assert_same(found, expected)


def test_one_sequence_too_long_with_checkpointing_ends_the_run(checkpoint):
    model = load(checkpoint("llama"))
    Failing(model, "forward", fits=20)
    with pytest.raises(GuardStop, match=r"one sequence of 34 tokens does not fit.*lower max_comp"):
        updated(model, ON_POLICY, PassBudget(1000), tokens=1000)
    assert model.is_gradient_checkpointing
    assert all(p.grad is None for p in model.parameters())


def test_the_failed_pass_is_freed_before_the_next_one(checkpoint):
    """No tensor of the failed pass's graph is alive when the packs are made again."""
    import weakref

    model = load(checkpoint("qwen2"))
    alive, seen = [], []
    model.model.layers[0].mlp.act_fn.register_forward_hook(
        lambda module, args, out: alive.append(weakref.ref(out))
    )

    class Watched(PassBudget):
        def shrink(self, *args):
            seen.append([ref() is not None for ref in alive])
            PassBudget.shrink(self, *args)

    failing = Failing(model, "backward", 2)
    updated(model, ON_POLICY, Watched(60))
    assert failing.raised == 1 and seen == [[False, False]]
