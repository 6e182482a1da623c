"""Memory turns: the KV cache is released for the update and mapped again for the next rollout.

The weights stay mapped, because the trainer computes with the very same memory: sleep levels 1 and
2 of vLLM would unmap them. vLLM from 0.27 on has a call for it; before that its allocator is driven
by hand, entry by entry. The allocator maps at fixed addresses, so CUDA graphs stay valid.
"""

import gc
from collections.abc import Callable

import torch

from nsr_fast.errors import GuardStop

_KV_TAG = "kv_cache"
_TOLERANCE = 0.02  # of the pool: other programs on the device may allocate meanwhile


class KvCacheTurns:
    """Releases and regains the KV cache of one vLLM engine on CUDA, and measures both."""

    def __init__(self, llm):
        self._llm = llm
        self._kv_bytes = self._rpc(lambda worker: sum(e.handle[1] for e in _kv_entries()))
        if not self._kv_bytes:
            raise GuardStop("memory: vLLM's allocator holds no KV cache; is sleep mode on?")

    def release(self) -> dict[str, float]:
        """Free the KV cache; GuardStop when the device did not get its bytes back."""
        before = free_bytes()
        if hasattr(self._llm, "release_kv_cache_memory"):
            self._llm.sleep(level=0)
            self._llm.llm_engine.step()  # the scheduler still holds the ids that finished last
            self._llm.release_kv_cache_memory()
        else:
            self._rpc(lambda worker: _unmap())
        freed = free_bytes() - before
        check_turn("released", freed, self._kv_bytes)
        return {"memory/kv_bytes": self._kv_bytes, "memory/kv_released_bytes": freed}

    def regain(self) -> dict[str, float]:
        """Map the KV cache again; GuardStop when the update left too little memory for it."""
        before = free_bytes()
        if before < self._kv_bytes:
            raise GuardStop(
                f"memory: the KV cache needs {gib(self._kv_bytes)}, the device has {gib(before)} "
                "free after the update; lower gpu_memory_utilization or micro_batch_tokens"
            )
        if hasattr(self._llm, "release_kv_cache_memory"):
            self._llm.wake_up(tags=[_KV_TAG])
        else:
            self._rpc(lambda worker: _map())
        taken = before - free_bytes()
        check_turn("regained", taken, self._kv_bytes)
        return {"memory/kv_regained_bytes": taken}

    def _rpc(self, function: Callable):
        return self._llm.collective_rpc(function)[0]


def check_turn(verb: str, measured: int, expected: int) -> None:
    """Raise GuardStop unless the device's free memory moved by `expected` bytes."""
    if abs(measured - expected) > _TOLERANCE * expected:
        raise GuardStop(
            f"memory: expected the KV cache's {gib(expected)} to be {verb}, measured "
            f"{gib(measured)}; either another program uses this device, or the allocator settings "
            "(PYTORCH_CUDA_ALLOC_CONF) keep vLLM's pool from giving memory back"
        )


def free_bytes() -> int:
    """Free memory of the current device, pending work done and torch's unused blocks returned."""
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def gib(num_bytes: float) -> str:
    """Bytes as text."""
    return f"{num_bytes / 2**30:.2f} GiB"


def _kv_entries() -> list:
    from vllm.device_allocator.cumem import CuMemAllocator

    entries = CuMemAllocator.get_instance().pointer_to_data.values()
    return [entry for entry in entries if entry.tag == _KV_TAG]


def _unmap() -> None:
    """vLLM before release_kv_cache_memory: its allocator's own release, for this tag only."""
    from vllm.device_allocator.cumem import unmap_and_release

    for entry in _kv_entries():
        unmap_and_release(entry.handle)
        entry.is_asleep = True


def _map() -> None:
    from vllm.device_allocator.cumem import CuMemAllocator

    CuMemAllocator.get_instance().wake_up([_KV_TAG])
