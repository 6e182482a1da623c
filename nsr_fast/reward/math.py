r"""The built-in reward "math": the last \boxed{...} of a completion against accepted answers."""

import atexit
import threading
from collections.abc import Callable, Sequence

from nsr_fast.reward.verdict import Score, Verdict
from nsr_fast.reward.verifier import MathVerifier, PendingScores


def verify_math(response: str, answer: object) -> Verdict:
    r"""CORRECT when the last \boxed{...} of `response` equals one of the accepted answers.

    answer   text (LaTeX), a number, or a list of accepted answers
    Returns  Verdict.UNSCORED when no accepted answer is usable, or at the deadline
    """
    return score_math(response, answer).verdict


def score_math(response: str, answer: object) -> Score:
    """verify_math with the reason and the extracted answer."""
    return math_reward.verifier.score([response], [answer])[0]


class MathReward:
    """The reward function, with its verifier started on first use or by start()."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._verifier: MathVerifier | None = None
        self._options: dict[str, object] = {"extract": "boxed"}
        self.__qualname__ = "math_reward"

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Sequence[object],
    ) -> list[float | None]:
        """+1 correct, -1 wrong, None unscored; columns["answer"] holds the accepted answers."""
        return self.submit(prompts, completions, completion_ids, **columns)()

    def submit(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Sequence[object],
    ) -> Callable[[], list[float | None]]:
        """Starts scoring in the workers; the call of what is returned waits for the rewards."""
        finish = columns.get("finish_reason")
        is_truncated = None if finish is None else [reason == "length" for reason in finish]
        pending = self.verifier.submit(completions, columns["answer"], is_truncated)
        return lambda: _rewards(pending)

    @property
    def verifier(self) -> MathVerifier:
        """The running verifier."""
        with self._lock:
            if self._verifier is None:
                self._verifier = MathVerifier()
                atexit.register(self._verifier.close)
            return self._verifier

    def start(self, *, extract: str = "boxed", **options: object) -> None:
        """Starts the workers with MathVerifier's options: call it before CUDA is in use."""
        options["extract"] = extract
        with self._lock:
            old = self._verifier
            if old is not None and options == self._options:
                return
            self._verifier, self._options = MathVerifier(**options), options
            atexit.register(self._verifier.close)
            if old is not None:
                atexit.unregister(old.close)
                old.close()

    def statistics(self) -> dict[str, float]:
        """Metrics of the verifier so far."""
        return self.verifier.statistics()


def _rewards(pending: PendingScores) -> list[float | None]:
    return [score.verdict.reward for score in pending.result()]


math_reward = MathReward()
