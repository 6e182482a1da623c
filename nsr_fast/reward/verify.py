"""The command `nsr-fast verify`: agreement with labelled cases, and golds of a data set.

cases   JSONL of {"gold" or "answer", "response" or "completion", "expected": true | false}
golds   a data set as `train` reads it
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nsr_fast.data.repeats import data_warnings
from nsr_fast.data.rows import read_rows
from nsr_fast.errors import InputError
from nsr_fast.reward.math import MathVerifier, gold_faults, quantile
from nsr_fast.reward.math.answer import extraction_rule
from nsr_fast.reward.verdict import Score, Verdict

_MAX_SHOWN = 50
_EXPECTED = {True: "correct", False: "wrong", "true": "correct", "false": "wrong"}


def verify_command(
    *,
    cases: str | None = None,
    golds: str | None = None,
    num_workers: int = 2,
    deadline_s: float = 1.0,
    extract: str = "boxed",
) -> int:
    """Prints the tables; returns the exit code: 0, or 2 when some gold does not verify."""
    if (cases is None) == (golds is None):
        raise InputError("verify: expected one of --data CASES.jsonl and --golds DATA")
    if golds is not None:
        return _golds_table(golds)
    rows = _read_cases(cases)
    rule = extraction_rule(extract)
    verifier = MathVerifier(num_workers=num_workers, deadline_s=deadline_s)
    verifier.wait_ready()
    scores, seconds = [], []
    for row in rows:
        start = time.perf_counter()
        scores += verifier.score([row["response"]], [row["gold"]], rule)
        seconds.append(time.perf_counter() - start)
    verifier.close()
    _print_cases(rows, scores, seconds)
    return 0


def _golds_table(data: str) -> int:
    rows = read_rows(data)
    start = time.perf_counter()
    bad = gold_faults(rows)
    elapsed = time.perf_counter() - start
    for row, kind in bad[:_MAX_SHOWN]:
        print(f"{row['id']}: answer {_short(row.get('answer'))} cannot be used: {kind}")
    if len(bad) > _MAX_SHOWN:
        print(f"... and {len(bad) - _MAX_SHOWN} more")
    for kind, count in Counter(kind for _, kind in bad).most_common():
        print(f"{count:>8} {kind}")
    for warning in data_warnings(rows):
        print(warning)
    print(
        f"{len(rows) - len(bad)} of {len(rows)} golds can be used, {len(bad)} not; {elapsed:.1f} s"
    )
    return 2 if bad else 0


def _read_cases(path: str) -> list[dict]:
    """Checked cases with keys id, gold, response, expected ("correct", "wrong", "unscored")."""
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"verify: {path}: cannot be read: {error}") from None
    rows = [_case(line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise InputError(f"verify: {path}: no cases")
    return rows


def _case(line: str, where: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"verify: {where}: broken JSON: {error.msg}") from None
    row = row if isinstance(row, dict) else {}
    gold = row.get("gold", row.get("answer"))
    response = row.get("response", row.get("completion"))
    expected = row.get("expected")
    expected = _EXPECTED.get(expected, expected) if isinstance(expected, bool | str) else None
    if gold is None or not isinstance(response, str):
        raise InputError(f"verify: {where}: expected gold (or answer) and response (or completion)")
    if expected not in {verdict.value for verdict in Verdict}:
        raise InputError(
            f"verify: {where}: expected: expected true, false, correct, wrong or unscored, "
            f"got {row.get('expected')!r}"
        )
    name = str(row.get("id", where))
    return {"id": name, "gold": gold, "response": response, "expected": expected}


def _print_cases(rows: list[dict], scores: list[Score], seconds: list[float]) -> None:
    names = [verdict.value for verdict in Verdict]
    table = Counter((r["expected"], s.verdict.value) for r, s in zip(rows, scores, strict=True))
    print(f"{'expected':>10} | " + " ".join(f"{name:>9}" for name in names) + "   <- verdict")
    for expected in names:
        if any(table[expected, name] for name in names):
            counts = " ".join(f"{table[expected, name]:>9}" for name in names)
            print(f"{expected:>10} | {counts}")
    pairs = zip(rows, scores, strict=True)
    off = [(r, s) for r, s in pairs if r["expected"] != s.verdict.value]
    for row, score in off[:_MAX_SHOWN]:
        print(
            f"{row['id']}: expected {row['expected']}, got {score.verdict.value} ({score.reason}): "
            f"gold {_short(row['gold'])}, answer {_short(score.extracted)}"
        )
    if len(off) > _MAX_SHOWN:
        print(f"... and {len(off) - _MAX_SHOWN} more")
    p50, p99 = 1e3 * quantile(seconds, 0.5), 1e3 * quantile(seconds, 0.99)
    print(
        f"{len(rows) - len(off)} of {len(rows)} as expected; {sum(seconds):.2f} s, "
        f"p50 {p50:.2f} ms, p99 {p99:.0f} ms, max {1e3 * max(seconds):.0f} ms"
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def main(arguments: Sequence[str]) -> int:
    """`nsr-fast verify` with its options."""
    parser = argparse.ArgumentParser(prog="nsr-fast verify")
    parser.add_argument("--data", dest="cases", help="cases as JSONL: gold, response, expected")
    parser.add_argument("--golds", help="a data set whose answers are checked")
    parser.add_argument("--workers", dest="num_workers", type=int, default=2)
    seconds = {"dest": "deadline_s", "type": float, "default": 1.0}
    parser.add_argument("--deadline", help="seconds for one answer", **seconds)
    parser.add_argument("--extract", default="boxed", help="boxed, lenient or paper")
    return verify_command(**vars(parser.parse_args(arguments)))
