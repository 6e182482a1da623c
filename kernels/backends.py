"""Which row kernel does the work: names, reasons, and the choice made by backend="auto".

Each backend is one module with row_stats, row_grad_, row_stats_grad_ (kernels/reference.py defines
them) and reason_unavailable(device or None) -> None or why it cannot work (on that device).
"""

from importlib import import_module
from types import ModuleType

import torch

_MODULES = {
    "cuda": "nsr_fast.kernels.row_cuda",
    "triton": "nsr_fast.kernels.row_triton",
    "cpu": "nsr_fast.kernels.row_cpu",
    "reference": "nsr_fast.kernels.reference",
}
_PREFERENCE = {"cuda": ("cuda", "triton", "reference"), "cpu": ("cpu", "reference")}
_DTYPES = {
    "cpu": (torch.float32, torch.bfloat16),
    "cuda": (torch.float32, torch.bfloat16, torch.float16),
    "triton": (torch.float32, torch.bfloat16, torch.float16),
}


def available_backends() -> dict[str, str | None]:
    """Every backend by name: None if it can be used on this machine, else the reason as text."""
    return {name: _reason(name, None) for name in _MODULES}


def resolve_backend(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that serves logits of `dtype` on `device`.

    "auto" takes the fastest that can. Raises ValueError for an unknown name, a device or a dtype
    the named backend does not take, RuntimeError (with the reason) when it is absent here.
    """
    if name == "auto":
        for candidate in _PREFERENCE.get(device.type, ("reference",)):
            if _takes(candidate, dtype) and _reason(candidate, device) is None:
                return candidate
        return "reference"
    if not isinstance(name, str) or name not in _MODULES:
        known = ", ".join(["auto", *_MODULES])
        raise ValueError(f"backend: expected one of {known}, got {name!r}")
    if absent := _reason(name, None):
        raise RuntimeError(f"backend {name!r} is not available: {absent}")
    if unfit := _reason(name, device):
        raise ValueError(f"backend: {name!r} {unfit}")
    if not _takes(name, dtype):
        takes = ", ".join(str(d).removeprefix("torch.") for d in _DTYPES[name])
        raise ValueError(
            f"backend: {name!r} takes logits of {takes}, got {dtype}; see logits_dtype"
        )
    return name


def check_backend(name: str, device: torch.device, dtype: torch.dtype) -> None:
    """resolve_backend for its errors; left to the operator while torch.compile traces."""
    if not torch.compiler.is_compiling():
        resolve_backend(name, device, dtype)


def row_kernels(name: str) -> ModuleType:
    """The module behind a resolved backend name."""
    return import_module(_MODULES[name])


def _takes(name: str, dtype: torch.dtype) -> bool:
    return dtype in _DTYPES.get(name, (dtype,))


def _reason(name: str, device: torch.device | None) -> str | None:
    if name == "reference":
        return None
    try:
        module = import_module(_MODULES[name])
    except ImportError as error:
        return f"cannot import {_MODULES[name]}: {error}"
    return module.reason_unavailable(device)
