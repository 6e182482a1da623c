"""The reward "code": a Python program against hidden tests, each in a fresh sandbox.

Rows hold `prompt` and `tests` (layouts in tests.py). A completion's program is chosen
by blocks.py. Every test passes: correct; the sandbox itself failed: unscored; anything else: wrong.
"""

import logging
import os
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from nsr_fast.errors import InputError
from nsr_fast.reward.code.blocks import program_of
from nsr_fast.reward.code.names import prelude_of
from nsr_fast.reward.code.outputs import outputs_match
from nsr_fast.reward.code.sandbox import (
    KILLED,
    Job,
    Limits,
    chosen_backend,
    package_problem,
    run_job,
)
from nsr_fast.reward.code.tests import CodeTests, read_tests, rows_with_tests, tests_of
from nsr_fast.reward.reward import Part
from nsr_fast.reward.verdict import Score, Verdict
from nsr_fast.types import Rollout

_REASONS = {"timeout": "deadline", "output": "too_much_output", "error": "raised"}
_REASONS |= {"memory": "too_much_memory"}


def verify_code(
    completion: str, tests: object, *, limits: Limits | None = None, backend: str = "auto"
) -> Score:
    """The score of one completion, with its reason; an unreadable test leaves it unscored."""
    try:
        wanted = read_tests(tests)
    except (ValueError, TypeError, RecursionError):
        return Score(Verdict.UNSCORED, "bad_gold")
    program = program_of(completion, wanted.asked())
    if program is None:
        return Score(Verdict.WRONG, "no_answer")
    job = Job(program, wanted.inputs, prelude_of(program), wanted.message(program))
    return _judged(run_job(job, limits=limits, backend=backend), wanted)


def _judged(report: dict, wanted: CodeTests) -> Score:
    if "failed" in report:
        # A program can end the supervisor only by killing all it can reach: its own doing.
        was_killed = report["failed"] == KILLED
        verdict = Verdict.WRONG if was_killed else Verdict.UNSCORED
        return Score(verdict, "killed" if was_killed else f"crash: {report['failed']}")
    results = report["results"]
    if not wanted.inputs:
        (result,) = results
        if result["output"] == "untested":
            return Score(Verdict.UNSCORED, "bad_gold")
        if result["output"] == "passed":
            return Score(Verdict.CORRECT, "equal")
        return Score(Verdict.WRONG, _REASONS.get(result["status"], "different"))
    failures = [
        result["status"]  # ok where only the output differs
        for result, expected in zip(results, wanted.outputs)
        if result["status"] != "ok" or not outputs_match(result["output"], expected)
    ]
    if not failures and len(results) == len(wanted.outputs):
        return Score(Verdict.CORRECT, "equal")
    status = failures[0] if failures else "ok"
    return Score(Verdict.WRONG, _REASONS.get(status, "different"))


class CodeReward(Part):
    """+1 all tests pass, -1 not, None the sandbox failed; sandboxes run in threads.

    unsafe       runs programs without a sandbox where none works; else that is an InputError
    num_workers  one per core unless given
    """

    name = "code"

    def __init__(
        self,
        *,
        unsafe: bool = False,
        num_workers: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._backend = chosen_backend(unsafe=unsafe)
        if problem := package_problem(self._backend):
            logging.getLogger(__name__).warning("reward: code: %s", problem)
        self._limits = limits or Limits()
        workers = num_workers or os.cpu_count() or 1
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        self._running: dict[tuple[str, str], Future[Score]] = {}
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def check_rows(self, rows: Sequence[dict], *, drop_bad_golds: bool) -> list[dict]:
        """The tests of every row must be of a known layout."""
        return rows_with_tests(rows, drop_bad_golds=drop_bad_golds)

    def begin(self, rollout: Rollout) -> "Future[Score]":
        """Starts the sandbox; equal programs with equal tests run once until the next finish."""
        tests = tests_of({**rollout.prompt.columns, "answer": rollout.prompt.answer})
        if tests is None:
            raise InputError("reward: code needs a column tests in every row")
        key = (rollout.text, repr(tests))
        if key not in self._running:
            self._running[key] = self._executor.submit(self._scored, rollout.text, tests)
        return self._running[key]

    def finish(
        self, rollouts: Sequence[Rollout], handles: "Sequence[Future[Score]]"
    ) -> list[Score]:
        """Waits for the sandboxes."""
        scores = [handle.result() for handle in handles]
        self._running.clear()
        return scores

    def statistics(self) -> dict[str, float]:
        """Counts by verdict and reason."""
        with self._lock:
            return {f"code/{name}": float(n) for name, n in sorted(self._counts.items())}

    def _scored(self, completion: str, tests: object) -> Score:
        score = verify_code(completion, tests, limits=self._limits, backend=self._backend)
        with self._lock:
            self._counts[score.verdict.value] += 1
            self._counts[f"reason/{score.reason.partition(':')[0]}"] += 1
        return score
