"""One optimizer step, side by side with torch.optim.AdamW, in interleaved repeats.

    python benchmarks/bench_adamw.py [--parameters 20e6] [--repeats 9] [--threads 1] [--cpu]

Tensors of a million elements. Every method steps its own copy: float32 parameters; bfloat16 with
float32 masters, where torch casts the gradients, steps the masters and copies them back; bfloat16
without masters, where torch keeps its moments in bfloat16 too and loses small updates. Where there
are no masters our step on a state of 3 bytes ("8-bit") runs beside ours on 8. "clip" adds the
clipping of the gradient norm. GB/s counts what has to be read and written once. On a CPU compare
the process time. Appends JSON lines to benchmarks/results/adamw.jsonl.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from nsr_fast.bench.timing import (
    Inputs,
    append_lines,
    machine_fields,
    peak_bytes,
    time_interleaved,
)
from nsr_fast.config_groups import OptimizerKeys
from nsr_fast.kernels.adamw import adamw_step_
from nsr_fast.kernels.adamw_8bit import adamw_8bit_step_, num_blocks
from nsr_fast.kernels.rows import available_backends
from nsr_fast.train.optimizer import PolicyOptimizer

RESULTS = Path(__file__).parent / "results" / "adamw.jsonl"
CHUNK = 1_000_000
NUMBERS = {"learning_rate": 1e-6, "weight_decay": 0.01}
# case -> (dtype, has masters, bytes read and written once for each element)
CASES = {
    "float32": (torch.float32, False, 28),
    "bfloat16, masters": (torch.bfloat16, True, 28),
    "bfloat16, no masters": (torch.bfloat16, False, 22),
}
# With int8 first and bfloat16 second moments, and an absmax for 256 elements.
BYTES_8BIT = {"float32": 18 + 8 / 256, "bfloat16, no masters": 12 + 8 / 256}


def kernel_step(parameters: list[nn.Parameter], grads: list[Tensor], backend: str, case: str):
    """Our step alone, on one backend."""
    dtype, has_masters, _ = CASES[case]
    moments = [[torch.zeros(p.shape, device=p.device) for _ in range(2)] for p in parameters]
    masters = [p.detach().float() if has_masters else None for p in parameters]
    seed = 0 if dtype == torch.bfloat16 and not has_masters else None
    options = {"step": 10, "seed": seed, "backend": backend, **NUMBERS}

    def run(_: Inputs) -> None:
        for p, grad, (m, v), master in zip(parameters, grads, moments, masters):
            adamw_step_(p, grad, m, v, master=master, **options)

    return run


def kernel_8bit_step(parameters: list[nn.Parameter], grads: list[Tensor], backend: str):
    """Our step on a state of 3 bytes alone, on one backend."""
    states = [
        (
            torch.zeros(p.shape, dtype=torch.int8, device=p.device),
            torch.zeros(num_blocks(p.numel()), device=p.device),
            torch.zeros(p.shape, dtype=torch.bfloat16, device=p.device),
        )
        for p in parameters
    ]
    options = {"step": 10, "seed": 0, "backend": backend, **NUMBERS}

    def run(_: Inputs) -> None:
        for p, grad, state in zip(parameters, grads, states):
            adamw_8bit_step_(p, grad, *state, **options)

    return run


def optimizer_step(
    parameters: list[nn.Parameter], grads: list[Tensor], case: str, optim: str = "adamw"
):
    """Our optimizer: norm and step."""
    masters = "stochastic" if case == "bfloat16, no masters" else "device"
    keys = OptimizerKeys(max_grad_norm=1.0, master_weights=masters, optim=optim, **NUMBERS)
    named = [(str(index), parameter) for index, parameter in enumerate(parameters)]
    optimizer = PolicyOptimizer(named, keys)

    def run(_: Inputs) -> None:
        for p, grad in zip(parameters, grads):
            p.grad = grad
        optimizer.step()

    return run


def torch_step(
    parameters: list[nn.Parameter], grads: list[Tensor], case: str, *, clip: bool, **options
):
    """torch.optim.AdamW, on masters where there are any."""
    has_masters = CASES[case][1]
    stepped = [nn.Parameter(p.detach().float()) for p in parameters] if has_masters else parameters
    optimizer = torch.optim.AdamW(stepped, lr=1e-6, weight_decay=0.01, **options)

    def run(_: Inputs) -> None:
        for p, grad in zip(stepped, grads):
            p.grad = grad.float() if has_masters else grad
        if clip:
            float(nn.utils.clip_grad_norm_(stepped, 1.0))
        optimizer.step()
        if has_masters:
            with torch.no_grad():
                torch._foreach_copy_(parameters, stepped)
            for p in stepped:
                p.grad = None

    return run


def methods(case: str, count: int, device: torch.device) -> dict[tuple[str, str], Callable]:
    """(name, mode) -> one step."""
    dtype = CASES[case][0]
    torch.manual_seed(0)
    values = [torch.randn(CHUNK, device=device) * 0.02 for _ in range(max(count // CHUNK, 1))]
    grads = [torch.randn_like(x).to(dtype) * 1e-3 for x in values]
    fresh = lambda: [nn.Parameter(x.to(dtype, copy=True)) for x in values]  # noqa: E731
    wanted = ("cuda", "triton") if device.type == "cuda" else ("cpu",)
    found = {
        (f"nsr_fast {name}", "step"): kernel_step(fresh(), grads, name, case)
        for name in wanted
        if available_backends()[name] is None
    }
    found["nsr_fast optimizer", "clip"] = optimizer_step(fresh(), grads, case)
    if case in BYTES_8BIT:
        for name in wanted:
            if available_backends()[name] is None:
                found[f"nsr_fast 8-bit {name}", "step"] = kernel_8bit_step(fresh(), grads, name)
        eight = optimizer_step(fresh(), grads, case, "adamw_8bit")
        found["nsr_fast 8-bit optimizer", "clip"] = eight
    for mode in ("step", "clip"):
        for name in ("fused", "foreach"):
            step = torch_step(fresh(), grads, case, clip=mode == "clip", **{name: True})
            found[f"torch {name}", mode] = step
    return found


def run_case(case: str, count: int, device: torch.device, repeats: int) -> list[dict]:
    """Measure and print one table."""
    dtype, _, bytes_each = CASES[case]
    table = methods(case, count, device)
    place = torch.empty(0, device=device)
    inputs = Inputs(place, place, place, place, place)
    for method in table.values():  # states are made at the first step
        method(inputs)
    timings = time_interleaved(table, inputs, repeats)
    print(f"\n{case}, {count / 1e6:.0f} million parameters, {torch.get_num_threads()} threads")
    lines = []
    for key, timing in timings.items():
        name, mode = key
        line = {"op": "adamw", "shape": {"N": count}, "dtype": str(dtype).removeprefix("torch.")}
        line |= {"backend": name, "mode": f"{case}, {mode}"} | machine_fields(device)
        # On a CPU the allocator keeps what a step freed: the resident set does not show a peak.
        peak = peak_bytes(table[key], inputs) if device.type == "cuda" else None
        line |= timing.line() | {"peak_bytes": peak}
        moved = BYTES_8BIT[case] if "8-bit" in name else bytes_each
        line["gb_per_s"] = round(moved * count / 1e6 / line["cpu_ms"], 2)
        lines.append(line)
        times = " ".join(f"{line[k]:9.2f}" for k in ("median_ms", "p20_ms", "p80_ms", "cpu_ms"))
        memory = "-" if peak is None else f"{peak / 2**20:.0f}"
        print(f"{mode:5} {name:24} {times} ms  {line['gb_per_s']:8.2f} GB/s {memory:>6} MiB")
    return lines


def run_cases(parameters: float, device: torch.device, repeats: int) -> list[dict]:
    """The lines of every case."""
    count = max(int(parameters) // CHUNK, 1) * CHUNK
    return [line for case in CASES for line in run_case(case, count, device, repeats)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=float, default=20e6)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", action="store_true", default=not torch.cuda.is_available())
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cpu" if options.cpu else "cuda")
    lines = run_cases(options.parameters, device, options.repeats)
    append_lines(options.out, lines)


if __name__ == "__main__":
    main()
