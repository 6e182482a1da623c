"""Rounds in which nothing was judged: what the guards of the reward find in them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from nsr_fast.config import Config
from nsr_fast.train.findings import Finding
from nsr_fast.types import Group, Rollout

_MIN_SCORED = 4  # fewer equal rewards are chance


@dataclass
class Judged:
    """What the rounds so far have shown; findings is called before each round's update."""

    has_correct: bool = False
    constant: float | None = None  # the one reward of all rounds so far
    has_several: bool = False  # rewards
    num_scored: int = 0

    def state(self) -> dict:
        """As plain numbers."""
        return asdict(self)

    def restore(self, state: Mapping) -> None:
        """Of state()."""
        for name, value in state.items():
            setattr(self, name, value)

    def findings(
        self, groups: Sequence[Group], config: Config, round_index: int, notes: Sequence[str] = ()
    ) -> list[Finding]:
        """Naming the share and one completion, for each guard that is met.

        notes   of the reward, as "did not return in time"
        Rollouts that the round's budget cut are left out.
        """
        rollouts = [r for group in groups for r in group.rollouts if r.finish_reason != "cut"]
        if not rollouts:
            return []
        scored = [r for r in rollouts if r.is_correct is not None]
        name = config.reward.correct_by or ", ".join(config.reward.names[:1])
        self._add(scored)
        return [
            *_shares(rollouts, config, notes),
            *(self._first_rounds(scored, config, round_index, name) if scored else ()),
        ]

    def _add(self, scored: Sequence[Rollout]) -> None:
        self.has_correct |= any(r.is_correct for r in scored)
        self.num_scored += len(scored)
        values = {r.reward for r in scored} | ({self.constant} - {None})
        self.has_several |= len(values) > 1
        self.constant = next(iter(values), None)

    def _first_rounds(
        self, scored: Sequence[Rollout], config: Config, round_index: int, name: str
    ) -> list[Finding]:
        keys, found = config.guards, []
        where = f"in the first {round_index} round(s) ({len(scored)} in this one)"
        rounds = keys.constant_reward_rounds
        # a verdict with a reason was looked at; the value of a function may be a stub's
        is_told = any(r.reason is not None for r in scored)
        is_constant = not is_told and not self.has_several and self.num_scored >= _MIN_SCORED
        if is_constant and rounds is not None and round_index >= rounds:
            what = f"{name} gave every completion the reward {self.constant:g} {where}"
            cure = "mend the function"
            found.append(Finding("constant_reward_rounds", what, cure, rounds, scored[0]))
        rounds = keys.first_correct_rounds
        if not self.has_correct and rounds is not None and round_index >= rounds:
            what = f"not one completion was correct by {name} {where}"
            cure = "look at the reward and the answers, take easier problems"
            found.append(Finding("first_correct_rounds", what, cure, rounds, scored[0]))
        return found


def _shares(rollouts: list[Rollout], config: Config, notes: Sequence[str]) -> list[Finding]:
    keys, length = config.guards, config.sampling.max_completion_length
    unscored = "; ".join(("were left unscored by the reward", *notes))
    found = []
    for name, limit, those, what, cure in [
        (
            "max_truncated",
            keys.max_truncated,
            [r for r in rollouts if r.finish_reason == "length"],
            f"were cut off at max_completion_length {length}",
            "raise max_completion_length, or check the template's end of turn",
        ),
        (
            "max_no_answer",
            keys.max_no_answer,
            [r for r in rollouts if has_no_answer(r)],
            "state no answer that the reward can find",
            "change the prompt, template or extract",
        ),
        (
            "max_unscored",
            keys.max_unscored,
            [r for r in rollouts if r.is_correct is None],
            unscored,
            "look at the reward and the answers of the data",
        ),
    ]:
        if limit is not None and len(those) >= limit * len(rollouts):
            what = f"{len(those)} of {len(rollouts)} completions {what}"
            found.append(Finding(name, what, cure, limit, those[0]))
    return found


def has_no_answer(rollout: Rollout) -> bool:
    """Whether the reward looked for an answer and found none."""
    is_truncated = rollout.reason == "truncated" and rollout.answer_found is None
    return rollout.reason == "no_answer" or is_truncated
