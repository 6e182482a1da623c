"""Time and memory of methods side by side, and the record of where they were measured.

Time is that of interleaved repeats (CUDA events after an L2 flush; wall and process time on a CPU),
memory the peak beyond inputs and gradients. The verb `nsr-fast bench` and the scripts in
benchmarks/ measure with this.
"""

import datetime
import gc
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Inputs:
    """hidden [T, D] and weight [V, D] are leaves; entropy is the row entropy of the logits [T]."""

    hidden: Tensor
    weight: Tensor
    target: Tensor
    token_weight: Tensor
    entropy: Tensor

    def clear(self) -> None:
        self.hidden.grad = self.weight.grad = None

    def gradient_bytes(self) -> int:
        return sum(x.grad.nbytes for x in (self.hidden, self.weight) if x.grad is not None)


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of each repeat; cpu_ms is the time of all threads of the process."""

    wall_ms: list[float]
    cpu_ms: list[float]

    def line(self) -> dict[str, float]:
        ranked = sorted(self.wall_ms)
        pick = [ranked[round(q * (len(ranked) - 1))] for q in (0.5, 0.2, 0.8)]
        names = ("median_ms", "p20_ms", "p80_ms")
        values = {name: round(value, 3) for name, value in zip(names, pick)}
        return values | {"cpu_ms": round(statistics.median(self.cpu_ms), 3)}


Method = Callable[[Inputs], None]


def time_interleaved(methods: dict[str, Method], inputs: Inputs, repeats: int) -> dict[str, Timing]:
    """Every method once per round: `repeats` rounds, on CUDA after one that warms up compilers."""
    timings = {name: Timing([], []) for name in methods}
    warm_up = 1 if inputs.hidden.is_cuda else 0
    for round_index in range(repeats + warm_up):
        for name, method in methods.items():
            inputs.clear()
            wall, cpu = _time_once(method, inputs)
            if round_index >= warm_up:
                timings[name].wall_ms.append(wall)
                timings[name].cpu_ms.append(cpu)
    inputs.clear()
    return timings


def _time_once(method: Method, inputs: Inputs) -> tuple[float, float]:
    if not inputs.hidden.is_cuda:
        wall, cpu = time.perf_counter(), time.process_time()
        method(inputs)
        return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3
    torch.empty(256 << 20, dtype=torch.int8, device=inputs.hidden.device).zero_()  # flushes L2
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    method(inputs)
    stop.record()
    torch.cuda.synchronize()
    elapsed = start.elapsed_time(stop)
    return elapsed, elapsed


class ResidentPeak:
    """How far the process's memory rises above where it is now; OSError where it cannot be told.

    Linux: the resident set's high-water mark, reset here.
    """

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status_bytes("VmRSS")

    def bytes(self) -> int:
        return _status_bytes("VmHWM") - self._before


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def peak_bytes(method: Method, inputs: Inputs) -> int | None:
    """Peak memory of one pass beyond inputs and gradients; None where it cannot be measured.

    CUDA: the allocator's peak. CPU: that of the resident set.
    """
    inputs.clear()
    gc.collect()
    if inputs.hidden.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        method(inputs)
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        try:
            meter = ResidentPeak()
        except OSError:
            return None
        method(inputs)
        peak = meter.bytes()
    beyond = peak - inputs.gradient_bytes()
    inputs.clear()
    return max(beyond, 0)


def machine_fields(device: torch.device) -> dict:
    """What a line of a result says about where and when it was measured."""
    is_cuda = device.type == "cuda"
    return {
        "gpu": machine_name(device) if is_cuda else None,
        "cpu": None if is_cuda else machine_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    } | code_fields()


def code_fields() -> dict[str, str]:
    """The commit that was measured, "" outside a checkout, and the date."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        commit = ""
    return {"commit": commit, "date": datetime.date.today().isoformat()}


def machine_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with the instruction set of the kernels."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    from nsr_fast.kernels.rows_cpu import instruction_sets

    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "unknown CPU"
    names = [x.split(":", 1)[1].strip() for x in text.splitlines() if x.startswith("model name")]
    return f"{names[0] if names else 'unknown CPU'} ({instruction_sets()[0]})"


def append_lines(path: Path, lines: Iterable[dict]) -> None:
    """Add JSON lines to a file of results, made when it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
