"""What a resumed run is worth, and what its checkpoints cost, with the demo's model and the real
engine.

    python benchmarks/bench_resume.py [--kills 20]      killed at random moments, resumed each time
    python benchmarks/bench_resume.py --cost            a round with save_rounds: 5 against 0

The first: one run goes through; another is killed (SIGKILL) a random time after its engine was
built, uniform over --window rounds, and resumed, again and again, then left to end. Both must have
the same bits: weights, optimizer state, rollouts, every metric but times. The second: two runs
beside each other, of which one is stopped (SIGSTOP) while the other does the five rounds up to its
next checkpoint, in turns; medians over these blocks, and of the saves alone (from the line of the
round before to their own) as a share of the rounds. Appends JSON lines to
benchmarks/results/resume.jsonl.
"""

import argparse
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).parent / "results" / "resume.jsonl"
DEMO = ROOT / "examples" / "countdown" / "nsr.yaml"
BLOCK = 5  # rounds
SMALL = {
    "prompts_per_round": 16,
    "eval_num_prompts": 8,
    "eval_num_samples": 8,
    "eval_rounds": 10,
    "sample_rollouts": 1000,
    "save_rounds": 1,
}
SHARED = {"cpu_threads": 1, "kv_cache_gib": 0.25}


class Process:
    """One `nsr-fast` command, its lines read as they come."""

    def __init__(self, *words: object, **settings: object):
        options = [word for k, v in settings.items() for word in (f"--{k}", str(v))]
        command = [sys.executable, "-m", "nsr_fast.cli", *map(str, words), *options]
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, start_new_session=True, **pipes
        )
        self.text: list[str] = []

    def lines(self) -> Iterator[str]:
        for line in self._process.stdout:
            self.text.append(line)
            yield line

    def wait_for(self, start: str) -> bool:
        """Read on until a line begins so; False when the command has ended."""
        return any(line.startswith(start) for line in self.lines())

    def send(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    def is_over(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def killed(self) -> int:
        if self._process.poll() is None:
            self.send(signal.SIGKILL)
        return self.ended()

    def ended(self) -> int:
        """The exit code, once all is read."""
        for _ in self.lines():
            pass
        return self._process.wait()

    def cpu_s(self) -> float:
        """Of its living threads."""
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(path.read_text().split()[0]) for path in threads) / 1e9

    def spent(self, *starts: str) -> tuple[float, float]:
        """Wall and CPU seconds until the lines that begin so have come, one after the other."""
        began, used = time.monotonic(), self.cpu_s()
        for start in starts:
            self.wait_for(start)
        return time.monotonic() - began, self.cpu_s() - used


def kills(folder: Path, options: argparse.Namespace) -> dict:
    """The result line; raises where the bits differ."""
    from tests.run_bits import difference

    settings = SMALL | SHARED | {"max_rounds": options.rounds}
    whole, killed = folder / "whole", folder / "killed"
    process, began = Process("train", "--config", DEMO, output_dir=whole, **settings), {}
    for line in process.lines():
        if found := re.match(r"round (\d+)/", line):
            began[int(found[1])] = time.monotonic()
    if code := process.ended():
        raise SystemExit(f"the whole run ended with {code}: {''.join(process.text[-5:])}")
    round_s = (began[options.rounds] - began[1]) / (options.rounds - 1)
    draw, done, in_a_save = random.Random(options.seed), [], 0
    for kill in range(options.kills):
        process = _goes_on(killed, settings)
        if not process.wait_for("packed attention"):
            raise SystemExit(f"start {kill + 1} ended: {''.join(process.text[-5:])}")
        if process.is_over(draw.uniform(0, options.window * round_s)):
            raise SystemExit(f"start {kill + 1} ended before its kill; raise --rounds")
        if (code := process.killed()) != -signal.SIGKILL:
            raise SystemExit(f"start {kill + 1}: {code}: {''.join(process.text[-5:])}")
        in_a_save += any(killed.glob("checkpoints/*.unfinished"))
        kept = [int(p.name[6:]) for p in killed.glob("checkpoints/round-*") if p.suffix == ""]
        done.append(max(kept, default=0))
        print(f"kill {kill + 1}: round {done[-1]} is kept", flush=True)
    process = _goes_on(killed, settings)
    if code := process.ended():
        raise SystemExit(f"the last start ended with {code}: {''.join(process.text[-5:])}")
    if found := difference(whole, killed):
        raise SystemExit(f"killed {options.kills} times, the run differs: {found}")
    return {
        "benchmark": "resume",
        "kills": options.kills,
        "seed": options.seed,
        "max_rounds": options.rounds,
        "settings": settings,
        "round_s": round(round_s, 2),
        "kept_rounds": done,
        "killed_in_a_save": in_a_save,
        "has_the_same_bits": True,
    }


def _goes_on(run: Path, settings: dict) -> Process:
    """The command that can be queued again and again; a run killed before its first checkpoint
    begins anew."""
    is_begun = any((run / "checkpoints").glob("round-*/manifest.json"))
    keys = {"resume_from_checkpoint": "true"} if is_begun else {"overwrite": "true"}
    return Process("train", "--config", DEMO, output_dir=run, **settings, **keys)


def cost(folder: Path, options: argparse.Namespace) -> dict:
    """Blocks of rounds of two runs in turns."""
    settings = SHARED | {"max_rounds": options.rounds, "eval_num_prompts": 1}
    settings |= {"eval_num_samples": 2}
    runs = {}
    for every in (BLOCK, 0):
        keys = settings | {"output_dir": folder / str(every), "save_rounds": every}
        runs[every] = Process("train", "--config", DEMO, **keys)
        runs[every].wait_for("round 1/")
        runs[every].send(signal.SIGSTOP)
    blocks, saves, median = {BLOCK: [], 0: []}, [], statistics.median
    for last in range(1 + BLOCK, options.rounds - BLOCK, BLOCK):  # each holds one save
        for every in sorted(runs, reverse=last % 2 == 0):
            process = runs[every]
            process.send(signal.SIGCONT)
            parts = [process.spent(f"round {last - 1}/")]
            if every:
                saves.append(process.spent("saved "))
                parts.append(saves[-1])
            parts.append(process.spent(f"round {last}/"))
            process.send(signal.SIGSTOP)
            blocks[every].append([sum(part) / BLOCK for part in zip(*parts)])
            print(f"save_rounds {every}: rounds to {last}: {blocks[every][-1]}", flush=True)
    for process in runs.values():
        process.killed()
    rounds = {n: [median(x) for x in zip(*blocks[n])] for n in blocks}
    save = [median(values) for values in zip(*saves)]
    return {
        "benchmark": "resume_cost",
        "save_rounds": BLOCK,
        "blocks": len(saves),
        "settings": settings,
        "round_s": {n: round(rounds[n][0], 3) for n in rounds},
        "round_cpu_s": {n: round(rounds[n][1], 3) for n in rounds},
        "save_s": round(save[0], 3),
        "save_cpu_s": round(save[1], 3),
        "save_share": round(save[0] / BLOCK / rounds[0][0], 4),
        "save_cpu_share": round(save[1] / BLOCK / rounds[0][1], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--window", type=float, default=2.0, help="rounds in which a kill falls")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        line = (cost if options.cost else kills)(Path(folder), options)
    import torch

    from nsr_fast.bench.timing import append_lines, machine_fields

    append_lines(options.out, [line | machine_fields(torch.device("cpu"))])
    print(line)


if __name__ == "__main__":
    main()
