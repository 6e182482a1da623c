"""Offload on a GPU: page-locked memory, streams, and the sums of gradients in .grad. Not yet run:
no GPU has been there since these were written."""

import pytest
import torch
from policies import tiny
from rollouts import make_rollouts

from nsr_fast.config_groups import OptimizerKeys
from nsr_fast.memory.offload import ActivationOffload
from nsr_fast.model.batch import pack
from nsr_fast.objective import Objective
from nsr_fast.train import host_gradients
from nsr_fast.train.host_gradients import HostGradients, OwnGradients
from nsr_fast.train.optimizer import PolicyOptimizer
from nsr_fast.train.step import accumulate_gradients, update_policy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
OBJECTIVE = Objective.w_reinforce()
LENGTHS = [300, 500, 200, 400, 100, 350]


def batches_of(budget):
    return pack(make_rollouts(LENGTHS), budget, torch.device("cuda"))


@pytest.fixture(autouse=True)
def same_bits_again():
    """The same kernels in the same order, also in the backward pass of the embedding."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def sums(kind, *, is_tied, dtype, activations=None, checkpointing=False):
    policy = tiny(is_tied=is_tied, dtype=dtype, layers=6).cuda()
    if checkpointing:
        policy.gradient_checkpointing_enable()
    kept = kind(policy.named_parameters())
    options = {"gradients": kept, "activations": activations}
    for _ in range(3):  # places and blocks are used again
        kept.clear()
        accumulate_gradients(policy, batches_of(600), OBJECTIVE, 0.9, **options)
    return {name: grad.cpu() for name, grad in kept.take().items()}, kept


@pytest.mark.parametrize("is_tied", [True, False])
def test_sums_on_the_host_are_those_of_grad(is_tied, monkeypatch):
    monkeypatch.setattr(host_gradients, "_PIECE_BYTES", 4096)
    own, _ = sums(OwnGradients, is_tied=is_tied, dtype=torch.float32)
    host, kept = sums(HostGradients, is_tied=is_tied, dtype=torch.float32)
    assert own.keys() == host.keys()
    for name, grad in own.items():
        torch.testing.assert_close(host[name], grad, rtol=1e-5, atol=1e-6 * grad.abs().max())
    assert all(place.is_pinned() for place in kept._crossing._free)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_activations_come_back_with_their_bits(checkpointing, monkeypatch):
    monkeypatch.setattr("nsr_fast.memory.offload._MIN_BLOCK_BYTES", 10_000)
    options = {"is_tied": False, "dtype": torch.bfloat16, "checkpointing": checkpointing}
    activations = ActivationOffload()
    plain, _ = sums(OwnGradients, **options)
    ours, _ = sums(OwnGradients, activations=activations, **options)
    for name, grad in plain.items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-2, atol=1e-3 * grad.abs().max())
    assert activations.num_kept_bytes == 0
    assert all(block.is_pinned() for block in activations._ring._blocks)


def test_memory_of_the_device_falls_by_gradients_and_states():
    def peak(offload):
        policy = tiny(is_tied=False, dtype=torch.bfloat16, layers=40).cuda()
        optimizer = PolicyOptimizer(policy.named_parameters(), OptimizerKeys(), offload=offload)
        torch.cuda.reset_peak_memory_stats()
        metrics = update_policy(policy, optimizer, [batches_of(120)], OBJECTIVE, 0.9)
        size = sum(p.nbytes for p in policy.parameters())
        return torch.cuda.max_memory_allocated(), size, metrics.grad_norm

    (plain, size, norm), (ours, _, other) = peak("none"), peak("gradients")
    assert other == pytest.approx(norm, rel=1e-2)
    assert plain - ours > 6 * size  # 12 of states and most of 2 of gradients, beside 2 of weights
