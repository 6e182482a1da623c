"""The measured peak of a round, and an allocator that gives memory back.

CUDA: torch's max_memory_allocated since the reset. CPU: the anonymous part of the resident peak,
    VmHWM - (RssFile + RssShmem as they are now)
where /proc/self/clear_refs may reset VmHWM; elsewhere it is the peak since the process started.
"""

import ctypes
import sys
from pathlib import Path

from nsr_fast.memory.limit import status_bytes

_CLEAR_REFS = Path("/proc/self/clear_refs")
_M_MMAP_THRESHOLD = -3  # malloc.h
_THRESHOLD_BYTES = 1 << 20


def reset_peak(device: str) -> None:
    """The peak counts from here on."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:  # not allowed: the peak is that of the process
        return


def peak_bytes(device: str) -> int | None:
    """Since reset_peak; None where the system does not say."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    peak = status_bytes("VmHWM")
    return peak - status_bytes("RssFile") - status_bytes("RssShmem") if peak else None


def give_back_freed_memory() -> bool:
    """glibc maps every block from 1 MiB on by itself, so that freed activations return to the
    system; its own threshold grows to 32 MiB and keeps them. False where it is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc.mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES) == 1
    except (OSError, AttributeError):
        return False
