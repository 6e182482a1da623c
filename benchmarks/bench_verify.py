"""The verifier's targets: development cases, golds, rollout throughput, sandboxed programs.

    python benchmarks/bench_verify.py --golds train.jsonl.gz test.jsonl.gz --cases cases.jsonl

Prints one aligned row per target; --out appends JSON lines. CPU only. What has no input is not run.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from verify_probes import INJECTIONS, boxed, rollout_probes

from nsr_fast.data import read_rows
from nsr_fast.errors import InputError
from nsr_fast.reward import Verdict
from nsr_fast.reward.math import MathVerifier, accepted_answers, check_golds

NUM_GOLDS, NUM_GENERATIONS = 1024, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golds", nargs="*", default=[], help="data files whose answers are golds")
    parser.add_argument("--cases", help="JSONL of id, gold, response, expected, policy")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--programs", type=int, default=500, help="sandboxed programs; 0: none")
    parser.add_argument("--out", help="append the rows to this JSONL file")
    options = parser.parse_args()
    verifier = MathVerifier(num_workers=options.workers)
    verifier.wait_ready()
    rows = []
    if options.cases:
        rows.append(cases_row(verifier, options.cases))
    rows.append(injections_row(verifier))
    if options.golds:
        data = [row for path in options.golds for row in rows_with_empty_answers(path)]
        rows += [golds_row(data), rollouts_row(data, options.workers)]
    if options.programs:
        from program_probes import programs_row

        rows.append(programs_row(options.programs))
    for row in rows:
        print(
            f"{row['op']:<12} {row['result']:<70} {row['seconds']:8.2f} s   target {row['target']}"
        )
        write_row(options.out, row)
    verifier.close()


def rows_with_empty_answers(path: str) -> list[dict]:
    """The rows of a data file; a bad file ends the benchmark with its one line."""
    try:
        return read_rows(path)
    except InputError as error:
        raise SystemExit(f"bench_verify: {error}") from None


def cases_row(verifier: MathVerifier, path: str) -> dict:
    """Share of cases right without those marked as policy, and the slowest one."""
    cases = [json.loads(line) for line in Path(path).read_text().splitlines()]
    right = judged = accepted_wrong = 0
    slowest = 0.0
    start = time.perf_counter()
    for case in cases:
        before = time.perf_counter()
        score = verifier.score([case["response"]], [case["gold"]])[0]
        slowest = max(slowest, time.perf_counter() - before)
        is_right = (score.verdict is Verdict.CORRECT) == case["expected"]
        accepted_wrong += not case["expected"] and not is_right
        if not case.get("policy"):
            judged += 1
            right += is_right
    return {
        "op": "cases",
        "result": f"{right}/{judged} right, {accepted_wrong} wrong accepted, max {slowest:.2f} s",
        "seconds": time.perf_counter() - start,
        "target": ">= 98 %, 0, 2 s",
    }


def injections_row(verifier: MathVerifier) -> dict:
    """Boxes holding Python or TeX that would create a file."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        texts = [boxed(text.format(path=made)) for text in INJECTIONS for _ in (0, 1)]
        golds = [
            gold for _ in INJECTIONS for gold in ("5", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}")
        ]
        scores = verifier.score(texts, golds)
        num_files = len(list(Path(folder).iterdir()))
    accepted = sum(score.verdict is Verdict.CORRECT for score in scores)
    return {
        "op": "injections",
        "result": f"{len(texts)} tried, {accepted} accepted, {num_files} files made",
        "seconds": time.perf_counter() - start,
        "target": "0, 0",
    }


def golds_row(data: list[dict]) -> dict:
    """Every gold against itself."""
    start = time.perf_counter()
    bad = check_golds(data)
    names = ", ".join(row["id"] for row in bad)
    return {
        "op": "golds",
        "result": f"{len(data) - len(bad)}/{len(data)} verify; not: {names}",
        "seconds": time.perf_counter() - start,
        "target": "all but the empty ones",
    }


def rollouts_row(data: list[dict], num_workers: int) -> dict:
    """Scoring of a whole round, cold caches, 1 % bombs."""
    golds = [row["answer"] for row in data if accepted_answers(row["answer"])][::7][:NUM_GOLDS]
    probes = rollout_probes(golds, NUM_GENERATIONS)
    verifier = MathVerifier(num_workers=num_workers)
    verifier.wait_ready()
    start, times = time.perf_counter(), os.times()
    scores = verifier.score([p.response for p in probes], [p.gold for p in probes])
    seconds = time.perf_counter() - start
    errors = sum(
        p.is_correct is not None and p.is_correct != (s.verdict is Verdict.CORRECT)
        for p, s in zip(probes, scores, strict=True)
    )
    numbers = verifier.statistics()
    verifier.close()
    cpu = sum(os.times()[:4]) - sum(times[:4])  # the workers' share counts when they have ended
    unscored = int(numbers.get("verify/unscored", 0))
    fast = f"fast {numbers['verify/fast_share']:.1%}, p99 {numbers['verify/p99_ms']:.0f} ms"
    load = f"cpu {cpu:.1f} s of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    return {
        "op": "rollouts",
        "result": f"{len(probes)} scored, {errors} off, {unscored} unscored, {fast}, {load}",
        "seconds": seconds,
        "target": "10 s",
    }


def write_row(path: str | None, row: dict) -> None:
    if path:
        machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "gpu": None}
        versions = {name: version(name) for name in ("math-verify", "sympy")}
        date = datetime.now(UTC).strftime("%Y-%m-%d")
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({**row, **machine, **versions, "date": date}) + "\n")


if __name__ == "__main__":
    main()
