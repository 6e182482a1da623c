r"""The reward "math": the answer of a completion against the accepted answers of its row.

All of a process share one verifier, so equal answers are judged once whoever asks.
"""

from collections.abc import Sequence
from dataclasses import replace

from nsr_fast.errors import InputError
from nsr_fast.reward.math.answer import extraction_rule
from nsr_fast.reward.math.golds import usable_rows
from nsr_fast.reward.math.verifier import PendingScore, shared_verifier
from nsr_fast.reward.reward import Part
from nsr_fast.reward.verdict import Score, Verdict
from nsr_fast.types import Rollout


def verify_math(response: str, answer: object) -> Verdict:
    r"""CORRECT when the last \boxed{...} of `response` equals one of the accepted answers.

    answer   text (LaTeX), a number, or a list of accepted answers
    Returns  Verdict.UNSCORED when no accepted answer is usable, or at the deadline
    """
    return score_math(response, answer).verdict


def score_math(response: str, answer: object) -> Score:
    """verify_math with the reason and the extracted answer."""
    return shared_verifier().score([response], [answer])[0]


class MathReward(Part):
    """+1 correct, -1 wrong, None unscored; every rollout is judged while the engine goes on.

    extract   where the answer is found: boxed, lenient or paper (see math/answer.py)
    The worker processes start here: make it before CUDA is in use.
    """

    name = "math"

    def __init__(self, *, extract: str = "boxed") -> None:
        self._extract = extraction_rule(extract)
        self._verifier = shared_verifier()

    def check_rows(self, rows: Sequence[dict], *, drop_bad_golds: bool) -> list[dict]:
        """Every answer must be readable; what is returned has it as read."""
        return usable_rows(rows, drop_bad_golds=drop_bad_golds, verifier=self._verifier)

    def begin(self, rollout: Rollout) -> PendingScore:
        """Judges in this process or starts a worker on it."""
        prompt = rollout.prompt
        if prompt.answer is None and "answer" not in prompt.columns:
            raise InputError("reward: math needs a column answer in every row")
        return self._verifier.begin(rollout.text, prompt.answer, self._extract)

    def finish(self, rollouts: Sequence[Rollout], handles: Sequence[PendingScore]) -> list[Score]:
        """Waits; a wrong answer of a completion without an end counts as truncated."""
        scores = [handle.result() for handle in handles]
        for i, (score, rollout) in enumerate(zip(scores, rollouts, strict=True)):
            if rollout.finish_reason == "length" and score.verdict is Verdict.WRONG:
                scores[i] = replace(score, reason="truncated")
        self._verifier.count(scores)
        return scores

    def statistics(self) -> dict[str, float]:
        """Metrics of the verifier so far."""
        return self._verifier.statistics()
