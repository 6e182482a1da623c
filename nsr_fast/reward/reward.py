"""The contract of rewards: one or several parts, weighted, that score the rollouts of a round.

    reward      = sum_i weight[i] * part[i]   over the parts that do not leave it unscored
    is_correct  = reward > 0                  None, unscored, when no part scored it

A part may start its work when a rollout finishes (begin) and is waited for once, with every rollout
of the round, the completions of a prompt consecutive (finish).
"""

from collections.abc import Sequence
from math import isfinite
from typing import Protocol

from nsr_fast.errors import InputError
from nsr_fast.types import Group, Prompt, Rollout


class Part(Protocol):
    """One reward function: math, code, countdown or the user's."""

    name: str

    def check_rows(self, rows: list[dict], *, drop_bad_golds: bool) -> list[dict]:
        """The rows that it can score; InputError names the others, or they are dropped."""
        return rows

    def begin(self, rollout: Rollout) -> object:
        """May start work on a finished rollout at once; returns a handle for finish."""

    def finish(self, rollouts: list[Rollout], handles: list[object]) -> list[float | None]:
        """Waits for the rewards, one a rollout; None is unscored. Called once a round."""

    def statistics(self) -> dict[str, float]:
        """Numbers for the metrics, by name."""
        return {}


class Reward:
    """Weighted parts as one reward; also a reward function for TRL.

    mask_truncated   leaves completions without an end unscored, wrong and correct ones alike
    """

    def __init__(
        self, parts: Sequence[tuple[Part, float]], *, mask_truncated: bool = False
    ) -> None:
        self.parts = tuple(parts)
        self.name = " + ".join(part.name for part, _ in parts)
        self.__name__ = self.name  # TRL names its metrics after it
        self._mask_truncated = mask_truncated

    @property
    def needs_answer(self) -> bool:
        """Whether some part cannot score a row without answer and tests."""
        return any(getattr(part, "needs_answer", True) for part, _ in self.parts)

    def check_rows(self, rows: list[dict], *, drop_bad_golds: bool = False) -> list[dict]:
        """The rows that every part can score. Raises InputError for the others, unless dropped."""
        for part, _ in self.parts:
            rows = part.check_rows(rows, drop_bad_golds=drop_bad_golds)
        return rows

    def open(self, *, mask_truncated: bool | None = None) -> "Scoring":
        """The scoring of one round, or of one part of an evaluation.

        mask_truncated   None: as the reward was made; an evaluation grades whatever there is
        """
        mask = self._mask_truncated if mask_truncated is None else mask_truncated
        return Scoring(self.parts, ("cut", "length") if mask else ("cut",))

    def statistics(self) -> dict[str, float]:
        """Metrics of all parts."""
        return {name: n for part, _ in self.parts for name, n in part.statistics().items()}

    def __call__(
        self,
        prompts: Sequence[object],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: object,
    ) -> list[float | None]:
        """The rewards of completions, as TRL asks for them.

        columns   of the data, one entry a completion; what is no such list is left out
        """
        lists = {
            name: column
            for name, column in columns.items()
            if isinstance(column, list | tuple) and len(column) == len(prompts)
        }
        rows = [
            {"id": f"row-{i}", "prompt": prompt} | {name: lists[name][i] for name in lists}
            for i, prompt in enumerate(prompts)
        ]
        rollouts = []
        for row, text, ids in zip(rows, completions, completion_ids, strict=True):
            prompt = Prompt(str(row["id"]), "", (), row.get("answer"), row)
            end = row.get("finish_reason", "stop")
            rollouts.append(Rollout(prompt, tuple(ids), (), text, end))
        scoring = self.open()
        for rollout in rollouts:
            scoring.add(rollout)
        scoring.finish([Group(rollout.prompt, (rollout,)) for rollout in rollouts])
        return [rollout.reward for rollout in rollouts]


class Scoring:
    """The rewards of the rollouts of one round."""

    def __init__(
        self, parts: Sequence[tuple[Part, float]], unscored_reasons: Sequence[str]
    ) -> None:
        self._parts, self._unscored_reasons = parts, unscored_reasons
        self._handles: dict[int, list[object]] = {}  # by id(rollout)

    def add(self, rollout: Rollout) -> None:
        """Takes a finished rollout, in any order; math and code start on it."""
        self._handles[id(rollout)] = [part.begin(rollout) for part, _ in self._parts]

    def finish(self, groups: Sequence[Group]) -> None:
        """Writes reward, is_correct and reward_parts of every rollout; each was added before.

        Raises InputError naming function and row: an exception, a wrong length, NaN, a wrong type
        """
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        if not rollouts:
            return
        handles = [self._handles.pop(id(rollout)) for rollout in rollouts]
        columns = [
            checked_rewards(part.finish(rollouts, list(own)), rollouts, part.name)
            for (part, _), own in zip(self._parts, zip(*handles))
        ]
        for rollout, rewards in zip(rollouts, zip(*columns)):
            scored = [w * r for (_, w), r in zip(self._parts, rewards) if r is not None]
            is_unscored = not scored or rollout.finish_reason in self._unscored_reasons
            rollout.reward = None if is_unscored else sum(scored)
            rollout.is_correct = is_correct(rollout.reward)
            rollout.reward_parts = {p.name: r for (p, _), r in zip(self._parts, rewards)}


def is_correct(reward: float | None) -> bool | None:
    """The sign that a rollout is trained with; None: unscored."""
    return None if reward is None else reward > 0


def checked_rewards(rewards: object, rollouts: Sequence[Rollout], name: str) -> list[float | None]:
    """The rewards as floats; InputError on a wrong length, NaN or a wrong type."""
    if not hasattr(rewards, "__len__") or not hasattr(rewards, "__iter__"):
        raise InputError(f"reward: {name}: expected a list, got {type(rewards).__name__}")
    if len(rewards) != len(rollouts):
        raise InputError(
            f"reward: {name}: expected {len(rollouts)} rewards, one a completion, "
            f"got {len(rewards)}"
        )
    checked: list[float | None] = []
    for reward, rollout in zip(rewards, rollouts, strict=True):
        try:
            value = None if reward is None else float(reward)
        except (TypeError, ValueError):
            value = float("nan")
        if value is not None and not isfinite(value):
            raise InputError(
                f"reward: {name}: row {rollout.prompt.id!r}: expected a finite number or None for "
                f"unscored, got {reward!r}"
            )
        checked.append(value)
    return checked
