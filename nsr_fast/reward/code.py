"""The built-in reward "code": a Python program against hidden tests, each in a fresh sandbox.

Rows hold `prompt` and `tests` (layouts in code_tests.py). A completion's program is its last fenced
block. Every test passes: correct; the sandbox itself failed: unscored; anything else: wrong.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from nsr_fast.errors import InputError
from nsr_fast.reward.code_tests import CodeTests, outputs_match, program_of, read_tests
from nsr_fast.reward.sandbox import KILLED, Limits, chosen_backend, run_program
from nsr_fast.reward.verdict import Score, Verdict

_REASONS = {"timeout": "deadline", "output": "too_much_output", "error": "raised"}
_REASONS |= {"memory": "too_much_memory"}


def verify_code(
    completion: str, tests: object, *, limits: Limits | None = None, backend: str = "auto"
) -> Score:
    """The score of one completion, with its reason; an unreadable test leaves it unscored."""
    try:
        wanted = read_tests(tests)
    except ValueError:
        return Score(Verdict.UNSCORED, "bad_gold")
    program = program_of(completion)
    if program is None:
        return Score(Verdict.WRONG, "no_answer")
    report = run_program(
        program,
        inputs=wanted.inputs,
        tests=wanted.statements,
        limits=limits,
        backend=backend,
    )
    return _judged(report, wanted)


def _judged(report: dict, wanted: CodeTests) -> Score:
    if "failed" in report:
        # A program can end the supervisor only by killing all it can reach: its own doing.
        was_killed = report["failed"] == KILLED
        verdict = Verdict.WRONG if was_killed else Verdict.UNSCORED
        return Score(verdict, "killed" if was_killed else f"crash: {report['failed']}")
    if wanted.statements:
        if report["passed"]:
            return Score(Verdict.CORRECT, "equal")
        return Score(Verdict.WRONG, _REASONS.get(report["status"], "different"))
    results = report["results"]
    for result, expected in zip(results, wanted.outputs):
        if result["status"] != "ok":
            return Score(Verdict.WRONG, _REASONS.get(result["status"], "different"))
        if not outputs_match(result["output"], expected):
            return Score(Verdict.WRONG, "different")
    is_complete = len(results) == len(wanted.outputs)
    return Score(*((Verdict.CORRECT, "equal") if is_complete else (Verdict.WRONG, "different")))


class CodeReward:
    """The reward function; sandboxes run in threads, one per core unless told otherwise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._backend, self._limits = "auto", Limits()
        self._counts: Counter[str] = Counter()
        self.__qualname__ = "code_reward"

    def start(
        self,
        *,
        unsafe: bool = False,
        num_workers: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Finds a sandbox that works here; InputError without one unless `unsafe`."""
        self._backend = chosen_backend(unsafe=unsafe)
        with self._lock:
            self._limits = limits or Limits()
            workers = num_workers or os.cpu_count() or 1
            self._executor = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Sequence[object],
    ) -> list[float | None]:
        """+1 all tests pass, -1 not, None the sandbox failed; columns["tests"] holds the tests."""
        return self.submit(prompts, completions, completion_ids, **columns)()

    def submit(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Sequence[object],
    ) -> Callable[[], list[float | None]]:
        """Starts the sandboxes; the call of what is returned waits for the rewards."""
        golds = columns.get("answer", [None] * len(completions))
        tests = columns.get("tests", golds)
        either = [gold if test is None else test for test, gold in zip(tests, golds, strict=True)]
        futures = self.scores(completions, either)
        return lambda: [future.result().verdict.reward for future in futures]

    def scores(self, completions: Sequence[str], tests: Sequence[object]) -> "list[Future[Score]]":
        """A future score per completion; equal pairs run once."""
        if None in tests:
            raise InputError("reward: code needs a column tests in every row")
        if self._executor is None:
            self.start()
        known: dict[tuple[str, str], Future[Score]] = {}
        futures = []
        for completion, test in zip(completions, tests, strict=True):
            key = (completion, repr(test))
            if key not in known:
                known[key] = self._executor.submit(self._scored, completion, test)
            futures.append(known[key])
        return futures

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


code_reward = CodeReward()
