"""What this machine lets a process use: /proc/meminfo, the cgroup's limit, CUDA's free memory."""

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_CGROUP = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")


def status_bytes(field: str) -> int:
    """A field of /proc/self/status, e.g. VmHWM, RssAnon; 0 where there is none."""
    return _field(_STATUS, field)


def host_free_bytes() -> int | None:
    """min(MemAvailable, limit - usage of every cgroup above this process), what this process holds
    itself counted as free; None where the system does not say."""
    available = _field(_MEMINFO, "MemAvailable")
    if not available:
        return None
    return min([available, *_cgroup_free()]) + status_bytes("RssAnon")


def cuda_free_bytes() -> int:
    """Of the current device."""
    import torch

    return torch.cuda.mem_get_info()[0]


def _field(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0


def _cgroup_free() -> list[int]:
    """limit - usage, page cache that can be dropped left out, of every group with a limit."""
    try:
        lines = _CGROUP.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
            found += _up_the_tree(_CGROUP_ROOT, path, names)
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            found += _up_the_tree(_CGROUP_ROOT / "memory", path, names)
    return found


def _up_the_tree(root: Path, path: str, names: tuple[str, str, str]) -> list[int]:
    folder, found = root / path.lstrip("/"), []
    while True:
        limit, usage = _number(folder / names[0]), _number(folder / names[1])
        if limit is not None and usage is not None and limit < 1 << 60:
            found.append(max(0, limit - usage + _statistic(folder / "memory.stat", names[2])))
        if folder == root or root not in folder.parents:
            return found
        folder = folder.parent


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _statistic(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
