"""What offload takes in host memory: counted, and refused where it does not fit."""

import pytest
import torch
from policies import tiny
from rollouts import make_rollouts

from nsr_fast.config_groups import OptimizerKeys
from nsr_fast.errors import InputError
from nsr_fast.memory.host import check_host_memory, free_host_bytes, host_bytes
from nsr_fast.model.batch import minibatches_of
from nsr_fast.objective import Objective
from nsr_fast.train.optimizer import PolicyOptimizer
from nsr_fast.train.step import update_policy

GIB = 1 << 30


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offload", ["none", "optimizer", "gradients"])
@pytest.mark.parametrize("optim", ["adamw", "adamw_8bit"])
def test_bytes_are_those_of_the_tensors_of_an_update(offload, dtype, optim):
    policy = tiny(is_tied=False, dtype=dtype)
    keys = OptimizerKeys(optim=optim)
    optimizer = PolicyOptimizer(policy.named_parameters(), keys, offload=offload)
    batches = minibatches_of(make_rollouts([5, 9, 30, 12, 20, 8]), 1, 24, torch.device("cpu"))
    update_policy(policy, optimizer, batches, Objective.nsr(), 1.0)
    tensors = list(optimizer._staging._buffers.values())
    for state in optimizer._states.values():
        held = [state.exp_avg, state.exp_avg_sq, state.master, state.absmax]
        tensors += [x for x in held if x is not None] if state.is_hosted else []
    if offload == "gradients":
        tensors += [total.value for total in optimizer.gradients._sums.values()]
        tensors += optimizer.gradients._crossing._free
    counts = [p.numel() for p in policy.parameters()]
    sizes = {"largest": max(counts), "weight_bytes": dtype.itemsize}
    terms = host_bytes(offload, sum(counts), **sizes, optim=optim)
    last_blocks = 4 * len(counts) if optim == "adamw_8bit" else 0  # each absmax of less than 256
    assert 0 <= sum(tensor.nbytes for tensor in tensors) - sum(terms.values()) <= last_blocks
    assert (terms == {}) == (offload == "none")


def test_what_does_not_fit_is_refused_with_its_terms_and_a_cure():
    terms = host_bytes("gradients", 7_615_616_512, largest=544_997_376)
    check_host_memory("gradients", terms, 200 * 10**9)
    check_host_memory("gradients", terms, None)
    with pytest.raises(InputError) as refused:
        check_host_memory("gradients", terms, 64 * 10**9)
    assert str(refused.value) == (
        "offload: gradients takes 123.2 GB of host memory (masters and moments 91.4, gradients "
        "30.5, buffers 1.4), 64.0 GB are free; take offload: optimizer (4 bytes a parameter less "
        "on the host), offload: none, a smaller model, or a machine with more memory"
    )


def test_free_bytes_are_the_smaller_of_machine_and_cgroup(tmp_path):
    assert free_host_bytes(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   8388608 kB\n")
    assert free_host_bytes(tmp_path) == 8 * GIB
    first = tmp_path / "sys/fs/cgroup"
    first.mkdir(parents=True)
    (first / "memory.max").write_text("max\n")
    (first / "memory.current").write_text(f"{3 * GIB}\n")
    (first / "memory.stat").write_text(f"anon 5\ninactive_file {GIB}\n")
    assert free_host_bytes(tmp_path) == 8 * GIB
    (first / "memory.max").write_text(f"{6 * GIB}\n")
    assert free_host_bytes(tmp_path) == 4 * GIB
    (first / "memory.current").write_text(f"{9 * GIB}\n")
    assert free_host_bytes(tmp_path) == 0
    other = tmp_path / "older/sys/fs/cgroup/memory"
    other.mkdir(parents=True)
    (other / "memory.limit_in_bytes").write_text(f"{6 * GIB}\n")
    (other / "memory.usage_in_bytes").write_text(f"{5 * GIB}\n")
    (other / "memory.stat").write_text(f"total_inactive_file {2 * GIB}\n")
    assert free_host_bytes(tmp_path / "older") == 3 * GIB


def test_this_machine_has_free_memory():
    found = free_host_bytes()
    assert found is None or 1 << 26 < found < 1 << 45
