"""The three outcomes of a verification, and why."""

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """UNSCORED is not an outcome of the rollout: it gets weight 0 and leaves group statistics."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNSCORED = "unscored"

    @property
    def reward(self) -> float | None:
        """+1, -1 or None."""
        return _REWARD[self]


_REWARD = {Verdict.CORRECT: 1.0, Verdict.WRONG: -1.0, Verdict.UNSCORED: None}


@dataclass(frozen=True, slots=True)
class Score:
    """A verdict with its reason.

    reason  equal, different, no_answer, truncated, unparsed, too_complex, deadline, crash, bad_gold
    """

    verdict: Verdict
    reason: str
    extracted: str | None = None
