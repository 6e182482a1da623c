"""Writes README's measured tables between their markers, from the lines in benchmarks/results/.

    python benchmarks/readme_table.py            rewrite README.md
    python benchmarks/readme_table.py --check    exit 1 when README.md is not what it would write

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a key of TABLES. The
newest line of each case and method counts.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from nsr_fast.evaluate.pass_at_k import paired_difference, pass_at_k_curve

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def main(arguments: list[str]) -> int:
    readme = ROOT / "README.md"
    old = readme.read_text()
    text = fill(old)
    if "--check" in arguments:
        return int(text != old)
    readme.write_text(text)
    return 0


def fill(text: str) -> str:
    """`text` with every known table between its markers replaced."""
    for name, table in TABLES.items():
        if f"<!-- table: {name} -->" not in text:
            continue
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        body = table()
        text = re.sub(pattern, lambda m, body=body: m[1] + body + m[2], text, flags=re.DOTALL)
    return text


def linear_loss() -> str:
    """The vocabulary head's loss: GPU lines when there are any, else the CPU's, said so."""
    lines = newest(read("bench_linear_loss.jsonl"))
    lines = [line for line in lines if line["op"] == "linear_policy_loss"]
    on_gpu = [line for line in lines if line["gpu"]]
    parts = [] if on_gpu else ["Not yet measured on a GPU. On a CPU:\n\n"]
    for key in dict.fromkeys(case_of(line) for line in on_gpu or lines):
        parts.append(case_table([line for line in (on_gpu or lines) if case_of(line) == key]))
    return "".join(parts)


def case_table(lines: list[dict]) -> str:
    """One Markdown table. On a CPU the ratios are of process time, which is shown too: other
    programs on the machine disturb it least."""
    first = lines[0]
    shape = first["shape"]
    on_gpu = first["gpu"] is not None
    threads = "1 thread" if first["threads"] == 1 else f"{first['threads']} threads"
    where = first["gpu"] or f"{first['cpu']}, {threads}"
    clock = "" if on_gpu else " CPU ms (all threads; the ratios are of these) |"
    head = f"T={shape['T']}, V={shape['V']}, H={shape['H']}, {first['dtype']}"
    rows = [
        f"{head}, {shape['active']:.0%} of the rows active; forward + backward on {where}, "
        f"torch {first['torch']}, {first['date']}:\n\n",
        f"| method | loss | ms |{clock} x cross_entropy(linear) | x three matmuls | MiB beyond "
        "inputs and gradients | relative error of dHidden, dWeight |\n"
        f"|---|---|---|{'' if on_gpu else '---|'}---|---|---|---|\n",
    ]
    time = {line["backend"]: line.get("cpu_ms") for line in lines}
    naive = next((t for name, t in time.items() if "cross_entropy(linear)" in name), None)
    floor = next((t for name, t in time.items() if "floor" in name), None)
    for line in lines:
        if "not_run" in line:
            rows.append(
                f"| {line['backend']} | {line['mode']} | not run: {line['not_run']} |||||\n"
            )
            continue
        ratios = [f"{line['cpu_ms'] / t:.2f}" if t else "" for t in (naive, floor)]
        memory = "" if line["peak_bytes"] is None else f"{line['peak_bytes'] / 2**20:.0f}"
        errors = [f"{line[k]:.0e}" for k in ("error_hidden", "error_weight") if k in line]
        times = [f"{line[k]:.0f}" for k in ("median_ms", "cpu_ms")[: 1 if on_gpu else 2]]
        cells = [line["backend"], line["mode"], *times, *ratios, memory]
        rows.append(f"| {' | '.join([*cells, ', '.join(errors)])} |\n")
    return "".join([*rows, "\n"])


def case_of(line: dict) -> tuple:
    where = line["gpu"] or (line["cpu"], line["threads"])
    return (*line["shape"].values(), line["dtype"], where)


def row_kernel() -> str:
    """The C++ row kernel beside torch, without the copy that restores its tile every time."""
    lines = newest(read("bench_linear_loss.jsonl"))
    lines = [line for line in lines if line["op"] == "row_stats_grad"]
    rows = ["| row kernel | tile | CPU ms | torch's time / this |\n|---|---|---|---|\n"]
    for dtype in dict.fromkeys(line["dtype"] for line in lines):
        time = {line["backend"]: line["cpu_ms"] for line in lines if line["dtype"] == dtype}
        copy = time.pop("copy of the tile")
        naive = time["torch log_softmax + autograd"]
        for name, cpu_ms in time.items():
            own = cpu_ms - copy if name.startswith("nsr_fast") else cpu_ms
            rows.append(f"| {name} | 256 x 151936 {dtype} | {own:.0f} | {naive / own:.1f} |\n")
    return "".join(rows)


def newest(lines: list[dict]) -> list[dict]:
    """The last line of each case and method, in the order in which they were first written."""
    return list({(*case_of(line), line["backend"], line["mode"]): line for line in lines}.values())


def read(name: str) -> list[dict]:
    path = RESULTS / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def countdown() -> str:
    """The demo over fresh seeds: Pass@k of the base, then each objective's paired difference."""
    lines = read("countdown.jsonl")
    num_samples, num_problems = lines[0]["num_samples"], len(lines[0]["num_correct_before"])
    ks = (1, 4, 16, 64, 256)
    base = pass_at_k_curve([line["num_correct_before"] for line in lines], num_samples, ks)
    parts = [
        f"{num_problems} unseen problems x {num_samples} samples, 40 rounds on the CPU; "
        "differences to the base with 95 % intervals:\n\n",
        f"| Countdown, Pass@k | {' | '.join(f'k = {k}' for k in ks)} |\n",
        f"|---{'|---' * len(ks)}|\n",
        f"| base | {' | '.join(f'{p:.3f}' for p in base.pass_at_k)} |\n",
    ]
    for objective in dict.fromkeys(line["objective"] for line in lines):
        runs = [line for line in lines if line["objective"] == objective]
        seeds = ", ".join(str(run["seed"]) for run in runs)
        before, after = ([run[f"num_correct_{x}"] for run in runs] for x in ("before", "after"))
        found = [paired_difference(before, after, num_samples, k) for k in ks]
        cells = [f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]" for d in found]
        parts.append(f"| {objective}, seeds {seeds} | {' | '.join(cells)} |\n")
    return "".join(parts)


def shared_weights() -> str:
    """Memory and sync with one copy of the weights and with two."""
    newest_lines = {(line["device"], line["mode"]): line for line in read("shared_weights.jsonl")}
    rows = ["| device | weights | peak MiB | sync ms |\n|---|---|---|---|\n"]
    for (device, mode), line in newest_lines.items():
        mib = line["peak_bytes"] / 2**20
        rows.append(f"| {device} | {mode} | {mib:.0f} | {line['sync_ms']:.2f} |\n")
    return "".join(rows)


def step() -> str:
    """A training step's peak memory and time with and without full logits."""
    lines = {line["method"]: line for line in read("step.jsonl")}
    rows = ["| training step | peak MiB, gradients included | CPU s |\n|---|---|---|\n"]
    for method, line in lines.items():
        rows.append(f"| {method} | {line['peak_bytes'] / 2**20:.0f} | {line['cpu_s']:.1f} |\n")
    return "".join(rows)


TABLES: dict[str, Callable[[], str]] = {
    "countdown": countdown,
    "linear_loss": linear_loss,
    "row_kernel": row_kernel,
    "shared_weights": shared_weights,
    "step": step,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
