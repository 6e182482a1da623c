"""The three outcomes of a verification, and why; rows that could only be left unscored."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from nsr_fast.errors import InputError

_MAX_NAMES = 8


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

    reason  equal, different, no_answer, truncated, unparsed, too_complex, deadline, crash, memory,
            bad_gold
    """

    verdict: Verdict
    reason: str
    extracted: str | None = None


def without_bad_golds(
    rows: Sequence[dict], bad: Sequence[dict], problem: str, *, drop_bad_golds: bool
) -> list[dict]:
    """`rows` without the `bad` ones among them; InputError with their ids unless dropping is asked.

    problem   what is wrong with them, as "tests cannot be read"
    """
    if not bad:
        return list(rows)
    names = ", ".join(repr(row["id"]) for row in bad[:_MAX_NAMES])
    names += f" and {len(bad) - _MAX_NAMES} more" if len(bad) > _MAX_NAMES else ""
    if not drop_bad_golds:
        raise InputError(
            f"data: {len(bad)} of {len(rows)} {problem}: rows {names}; "
            "mend them or set drop_bad_golds: true"
        )
    ids = {row["id"] for row in bad}
    kept = [row for row in rows if row["id"] not in ids]
    if not kept:
        raise InputError(f"data: no row is left after dropping {len(bad)} bad golds: {names}")
    return kept
