"""Host memory that `offload` takes, and whether it is there."""

from pathlib import Path

from nsr_fast.errors import InputError

_CGROUPS = (  # version 2, version 1: limit, usage, statistics and the name of what can be dropped
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
_RING_BYTES = 256 << 20  # train/host_gradients.py: 4 places of 64 MiB


def host_bytes(
    offload: str,
    num_parameters: int,
    *,
    largest: int = 0,
    weight_bytes: int = 2,
    optim: str = "adamw",
) -> dict[str, int]:
    """Bytes that `offload` takes in host memory, by term.

    num_parameters  that are trained
    largest         elements of the largest of them (embedding, head)
    weight_bytes    2 (bfloat16) or 4 an element. Buffers: a bfloat16 weight is rounded on the host,
                    with adamw_8bit either is stepped there, for no master is;
                    gradients cross in one of either dtype (the head's are float32), or in the ring
    """
    if offload == "none":
        return {}
    is_8bit = optim == "adamw_8bit"
    rounded = weight_bytes * largest if weight_bytes < 4 or is_8bit else 0
    crossing = (6 if weight_bytes < 4 else 4) * largest
    terms = {"masters and moments": 12 * num_parameters}
    if is_8bit:
        terms = {"moments": 3 * num_parameters + num_parameters // 64}
    if offload == "gradients":
        crossing = _RING_BYTES
        terms["gradients"] = 4 * num_parameters
    return terms | {"buffers": rounded + crossing}


def check_host_memory(offload: str, terms: dict[str, int], free: int | None) -> None:
    """InputError when the bytes of `terms` are more than `free` (None: not known here)."""
    needed = sum(terms.values())
    if free is None or needed <= free:
        return
    parts = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in terms.items())
    less = {"gradients": "offload: optimizer (4 bytes a parameter less on the host), "}
    raise InputError(
        f"offload: {offload} takes {needed / 1e9:.1f} GB of host memory ({parts}), "
        f"{free / 1e9:.1f} GB are free; take {less.get(offload, '')}offload: none, a smaller "
        "model, or a machine with more memory"
    )


def free_host_bytes(root: Path = Path("/")) -> int | None:
    """What the machine and this process's cgroup have left; None where neither says so."""
    found = []
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) << 10)
    for limit, usage, statistics, inactive in _CGROUPS:
        folder = root / "sys/fs/cgroup"
        most, used = _lines(folder / limit), _lines(folder / usage)
        if most and used and most[0].isdigit():
            pairs = dict(line.split()[:2] for line in _lines(folder / statistics))
            found.append(int(most[0]) - int(used[0]) + int(pairs.get(inactive, 0)))
    return max(0, min(found)) if found else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
