"""Saved activations in host memory: how many bytes, of which tensors, and the same gradients."""

from contextlib import nullcontext

import pytest
import torch
from policies import policy_of, tiny
from rollouts import make_rollouts
from torch import nn
from transformers import LlamaConfig

from nsr_fast.memory import offload
from nsr_fast.memory.offload import ActivationOffload
from nsr_fast.model.batch import hidden_states, pack
from nsr_fast.objective import Objective
from nsr_fast.train.step import accumulate_gradients

CPU = torch.device("cpu")
OBJECTIVE = Objective.w_reinforce()


def llama(layers=4):
    """The model whose bytes the docs give."""
    return policy_of(
        LlamaConfig(
            vocab_size=1000,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )


class GraphBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts the storages that autograd itself keeps, parameters left out."""

    def __init__(self, policy):
        self.storages = {}
        own = {p.untyped_storage().data_ptr() for p in policy.parameters()}

        def pack_(x):
            storage = x.untyped_storage()
            if storage.data_ptr() not in own:
                self.storages[storage.data_ptr()] = (x, storage.nbytes())
            return x

        super().__init__(pack_, lambda x: x)

    @property
    def num_bytes(self):
        return sum(size for _, size in self.storages.values())


def kept_bytes(policy, batch):
    """Of one forward pass: in host memory."""
    activations = ActivationOffload()
    with activations.of(policy):
        hidden = hidden_states(policy, batch)
    found = activations.num_kept_bytes
    hidden.sum().backward()
    del hidden
    assert activations.num_kept_bytes == 0
    return found


def test_bytes_a_token_are_those_of_the_layers_inputs():
    """6.2 kB a token instead of 88.7: the layers' inputs and what the last norm saves, each once;
    position ids and the places of the loss rows are the rest."""
    policy = llama()
    (batch,) = pack(make_rollouts([508]), 1000, CPU)
    plain = GraphBytes(policy)
    with plain:
        hidden_states(policy, batch)
    whole = kept_bytes(policy, batch)
    policy.gradient_checkpointing_enable()
    checkpointed = kept_bytes(policy, batch)
    assert checkpointed / 512 == pytest.approx(4 * 1024 + 2 * 1024 + 20, rel=0.002)
    assert whole == pytest.approx(plain.num_bytes, rel=0.001)
    assert plain.num_bytes / 512 == pytest.approx(88_684, rel=0.01)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_gradients_are_the_same_bits_pass_after_pass(checkpointing, monkeypatch):
    """Several passes reuse the ring; its blocks here are small, so that it grows."""
    monkeypatch.setattr(offload, "_MIN_BLOCK_BYTES", 10_000)
    batches = pack(make_rollouts([40, 30, 55, 20, 34]), 60, CPU)
    assert len(batches) > 2
    found = []
    for activations in (None, ActivationOffload()):
        policy = tiny(is_tied=False)
        if checkpointing:
            policy.gradient_checkpointing_enable()
        for _ in range(2):
            accumulate_gradients(policy, batches, OBJECTIVE, 0.9, activations=activations)
        found.append([p.grad for p in policy.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found))
    assert activations.num_kept_bytes == 0


def test_copies_are_given_back_layer_by_layer():
    policy = tiny(is_tied=False, layers=4)
    policy.gradient_checkpointing_enable()
    (batch,) = pack(make_rollouts([100]), 1000, CPU)
    activations, seen = ActivationOffload(), []
    with activations.of(policy):
        hidden = hidden_states(policy, batch)
    for layer in policy.model.layers:
        weight = layer.mlp.down_proj.weight
        weight.register_post_accumulate_grad_hook(lambda _: seen.append(activations.num_kept_bytes))
    hidden.sum().backward()
    row = 104 * 64 * 4  # of the tokens' hidden states
    assert [b - a for a, b in zip(seen[1:], seen)] == [row] * 3


def test_host_memory_does_not_grow_with_the_passes(monkeypatch):
    monkeypatch.setattr(offload, "_MIN_BLOCK_BYTES", 1000)
    policy = tiny(is_tied=True)
    policy.gradient_checkpointing_enable()
    activations, sizes = ActivationOffload(), []
    batches = pack(make_rollouts([40, 30, 55, 20]), 60, CPU)
    for _ in range(4):
        accumulate_gradients(policy, batches, OBJECTIVE, 0.9, activations=activations)
        sizes.append(activations.num_host_bytes)
    assert sizes[0] == sizes[-1] < 1.5 * max(kept_bytes(policy, batch) for batch in batches)


class Saves(nn.Module):
    """Its products save its weight, its buffer and three more tensors, one of them three times."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 64))
        self.register_buffer("table", torch.randn(64, 64))

    def forward(self, x):
        y = torch.tanh(x @ self.weight)  # x, the weight, y
        z = y * self.weight  # y, the weight
        return z * self.table + z * y  # the table, z, y


def test_parameters_and_buffers_stay_and_a_tensor_is_moved_once():
    torch.manual_seed(0)
    module, activations = Saves(), ActivationOffload()
    x = torch.randn(64, 64, requires_grad=True)
    found = []
    for context in (activations.of(module), nullcontext()):
        with context:
            loss = module(x).sum()
        if not found:
            assert activations.num_kept_bytes == 3 * x.nbytes
        loss.backward()
        found.append((x.grad, module.weight.grad))
        x.grad = module.weight.grad = None
    assert all(torch.equal(a, b) for a, b in zip(*found))


def test_a_tensor_changed_in_between_is_kept_twice():
    """Its storage is the same, its version is not."""
    activations = ActivationOffload()
    x = torch.full((1000,), 2.0)
    w = torch.ones(1000, requires_grad=True)
    with activations.of(nn.Identity()):
        first = (w * x).sum()
        x.mul_(3)
        second = (w * x).sum()
    assert activations.num_kept_bytes == 2 * 4000
    (first + second).backward()
    assert w.grad.tolist() == [8.0] * 1000


def test_small_and_overlapping_tensors_stay_and_strides_are_kept():
    activations = ActivationOffload()
    got = []

    class Look(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *saved):
            ctx.save_for_backward(*saved)
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            got.extend(ctx.saved_tensors)
            return grad, *[None] * len(got)

    base = torch.randn(100, 80)
    saved = [torch.ones(255), base.mT, torch.ones(1, 1).expand(50, 50), base[:, :50]]
    x = torch.ones(3, requires_grad=True)
    with activations.of(nn.Identity()):
        y = Look.apply(x, *saved)
    assert activations.num_kept_bytes == base.nbytes
    y.sum().backward()
    for before, after in zip(saved, got, strict=True):
        assert torch.equal(before, after) and before.stride() == after.stride()


def test_a_forward_pass_that_fails_gives_everything_back(monkeypatch):
    """As after running out of memory: the next pass begins with an empty ring."""
    monkeypatch.setattr(offload, "_MIN_BLOCK_BYTES", 1000)
    policy = tiny(is_tied=True)
    policy.gradient_checkpointing_enable()
    (batch,) = pack(make_rollouts([30, 20]), 100, CPU)
    activations = ActivationOffload()
    accumulate_gradients(policy, [batch], OBJECTIVE, 0.9, activations=activations)
    expected = [p.grad for p in policy.parameters()]
    policy.zero_grad()
    found = []

    def fail(*_):
        found.append(activations.num_kept_bytes)
        raise torch.OutOfMemoryError("here")

    handle = policy.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        accumulate_gradients(policy, [batch], OBJECTIVE, 0.9, activations=activations)
    handle.remove()
    assert found[0] > 0 and activations.num_kept_bytes == 0
    policy.zero_grad()
    accumulate_gradients(policy, [batch], OBJECTIVE, 0.9, activations=activations)
    assert all(torch.equal(a, p.grad) for a, p in zip(expected, policy.parameters()))
