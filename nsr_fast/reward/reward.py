"""The contract of rewards: one or several parts that score the rollouts of a round.

    is_correct  = part[decider] > 0           None, unscored, when that part leaves it unscored
    reward      = sum_i weight[i] * part[i]   the graded value, over the parts that scored it

One part, the first unless another is named, decides correct, wrong or unscored; weights and the
other parts change the graded value only. A part may start its work when a rollout finishes (begin)
and is waited for once, with every rollout of the round, a prompt's consecutive (start, finish).
"""

from collections.abc import Sequence
from math import isfinite
from typing import Protocol

from nsr_fast.errors import InputError
from nsr_fast.reward.round_log import RoundLog, TrainerState
from nsr_fast.reward.verdict import Score
from nsr_fast.types import Group, Prompt, Rollout


class Part(Protocol):
    """One reward function: math, code, countdown or the user's."""

    name: str

    def check_rows(self, rows: list[dict], *, drop_bad_golds: bool) -> list[dict]:
        """The rows that it can score; InputError names the others, or they are dropped."""
        return rows

    def begin(self, rollout: Rollout) -> object:
        """May start work on a finished rollout at once; returns a handle for finish."""

    def start(self, rollouts: list[Rollout], log: RoundLog) -> None:
        """All rollouts are there; may start what runs beside the other parts."""

    def finish(self, rollouts: list[Rollout], handles: list[object]) -> list:
        """Waits for the rewards, one a rollout: a Score, a number, or None for unscored.
        Called once a round."""

    def statistics(self) -> dict[str, float]:
        """Numbers for the metrics, by name."""
        return {}


class Reward:
    """Weighted parts as one reward; also a reward function for TRL.

    decider          index of the part that decides correct, wrong or unscored
    mask_truncated   leaves completions without an end unscored, wrong and correct ones alike
    """

    def __init__(
        self,
        parts: Sequence[tuple[Part, float]],
        *,
        decider: int = 0,
        mask_truncated: bool = False,
    ) -> None:
        self.parts, self.decider = tuple(parts), decider
        self.name = " + ".join(part.name for part, _ in parts)
        self.__name__ = self.name  # TRL names its metrics after it
        self._mask_truncated = mask_truncated

    def check_rows(self, rows: list[dict], *, drop_bad_golds: bool = False) -> list[dict]:
        """The rows that every part can score. Raises InputError for the others, unless dropped."""
        for part, _ in self.parts:
            rows = part.check_rows(rows, drop_bad_golds=drop_bad_golds)
        return rows

    def open(
        self, *, mask_truncated: bool | None = None, trainer_state: object = TrainerState()
    ) -> "Scoring":
        """The scoring of one round, or of one part of an evaluation.

        mask_truncated   None: as the reward was made; an evaluation grades whatever there is
        trainer_state    for the functions that ask for it
        """
        mask = self._mask_truncated if mask_truncated is None else mask_truncated
        return Scoring(self, ("cut", "length") if mask else ("cut",), RoundLog(trainer_state))

    def statistics(self) -> dict[str, float]:
        """Metrics of all parts."""
        return {name: n for part, _ in self.parts for name, n in part.statistics().items()}

    def __call__(
        self,
        prompts: Sequence[object],
        completions: Sequence[str | list[dict]],
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
        told = columns.get("trainer_state")
        rows = [
            {"id": f"row-{i}", "prompt": prompt} | {name: lists[name][i] for name in lists}
            for i, prompt in enumerate(prompts)
        ]
        rollouts = []
        for row, given, ids in zip(rows, completions, completion_ids, strict=True):
            prompt = Prompt(str(row["id"]), "", (), row.get("answer", row.get("solution")), row)
            text = given if isinstance(given, str) else given[-1]["content"]
            end = row.get("finish_reason", "stop")
            rollouts.append(Rollout(prompt, tuple(ids), (), text, end))
        scoring = self.open() if told is None else self.open(trainer_state=told)
        for rollout in rollouts:
            scoring.add(rollout)
        scoring.finish([Group(rollout.prompt, (rollout,)) for rollout in rollouts])
        return [rollout.reward for rollout in rollouts]


class Scoring:
    """The rewards of the rollouts of one round."""

    def __init__(self, reward: Reward, unscored_reasons: Sequence[str], log: RoundLog) -> None:
        self._parts, self._decider = reward.parts, reward.decider
        self._names = _distinct([part.name for part, _ in reward.parts])
        self._unscored_reasons, self.log = unscored_reasons, log
        self._handles: dict[int, list[object]] = {}  # by id(rollout)

    def add(self, rollout: Rollout) -> None:
        """Takes a finished rollout, in any order; math and code start on it."""
        self._handles[id(rollout)] = [part.begin(rollout) for part, _ in self._parts]

    def finish(self, groups: Sequence[Group]) -> None:
        """Writes the reward's fields of every rollout; each was added before.

        Raises InputError naming function and row: an exception, a wrong length, NaN, a wrong type
        """
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        if not rollouts:
            return
        self.log.rollouts = rollouts
        handles = zip(*(self._handles.pop(id(rollout)) for rollout in rollouts))
        for part, _ in self._parts:
            part.start(rollouts, self.log)
        scores = [
            checked_rewards(part.finish(rollouts, list(own)), rollouts, part.name)
            for (part, _), own in zip(self._parts, handles)
        ]
        for rollout, own in zip(rollouts, zip(*scores)):
            self._write(rollout, own)

    def _write(self, rollout: Rollout, scores: Sequence[float | Score | None]) -> None:
        """The one place where correct, wrong or unscored is decided."""
        rewards = [s.verdict.reward if isinstance(s, Score) else s for s in scores]
        decided, verdict = rewards[self._decider], scores[self._decider]
        if isinstance(verdict, Score):
            rollout.reason, rollout.answer_found = verdict.reason, verdict.extracted
        is_unscored = decided is None or rollout.finish_reason in self._unscored_reasons
        rollout.is_correct = None if is_unscored else decided > 0
        graded = sum(w * r for (_, w), r in zip(self._parts, rewards) if r is not None)
        rollout.reward = None if is_unscored else graded
        rollout.reward_parts = dict(zip(self._names, rewards))


def _distinct(names: Sequence[str]) -> list[str]:
    """A repeated name gets #2, #3, ..."""
    return [
        name if name not in names[:i] else f"{name}#{names[:i].count(name) + 1}"
        for i, name in enumerate(names)
    ]


def checked_rewards(
    rewards: object, rollouts: Sequence[Rollout], name: str
) -> list[float | Score | None]:
    """Numbers as floats, Scores as they are; InputError on a wrong length, NaN, a wrong type."""
    if not hasattr(rewards, "__len__") or not hasattr(rewards, "__iter__"):
        raise InputError(f"reward: {name}: expected a list, got {type(rewards).__name__}")
    if len(rewards) != len(rollouts):
        raise InputError(
            f"reward: {name}: expected {len(rollouts)} rewards, one a completion, "
            f"got {len(rewards)}"
        )
    checked: list[float | Score | None] = []
    for reward, rollout in zip(rewards, rollouts, strict=True):
        if isinstance(reward, Score):
            checked.append(reward)
            continue
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
