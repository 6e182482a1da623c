"""Rounds in which nothing was judged: they stop the run before anything is trained on them."""

from collections.abc import Sequence
from dataclasses import dataclass

from nsr_fast.config import Config
from nsr_fast.errors import GuardStop
from nsr_fast.types import Group, Rollout

_MAX_CHARS = 240


@dataclass
class Judged:
    """What the rounds so far have shown; check is called before each round's update."""

    has_correct: bool = False
    constant: float | None = None  # the one reward of all rounds so far
    has_several: bool = False  # rewards

    def check(
        self, groups: Sequence[Group], config: Config, round_index: int, notes: Sequence[str] = ()
    ) -> None:
        """GuardStop naming the share, one completion and the key of the guard that stops.

        notes   of the reward, as "did not return in time"
        Rollouts that the round's budget cut are left out.
        """
        rollouts = [r for group in groups for r in group.rollouts if r.finish_reason != "cut"]
        if not rollouts:
            return
        where = f"round {round_index}, nothing was trained on it"
        name = ", ".join(config.reward.names[:1]) if not config.reward.correct_by else ""
        self._check_shares(rollouts, config, where, notes)
        self._check_first_rounds(
            rollouts, config, round_index, where, config.reward.correct_by or name
        )

    def _check_shares(
        self, rollouts: list[Rollout], config: Config, where: str, notes: Sequence[str]
    ) -> None:
        keys, length = config.guards, config.sampling.max_completion_length
        unscored = "; ".join(("were left unscored by the reward", *notes))
        for key, limit, found, what, cure in [
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
            if limit is not None and len(found) >= limit * len(rollouts):
                raise GuardStop(
                    f"{where}: {len(found)} of {len(rollouts)} completions {what}; {cure}, or set "
                    f"{key} (now {limit:g}; none: off). One of them: {shortened(found[0])}"
                )

    def _check_first_rounds(
        self, rollouts: list[Rollout], config: Config, round_index: int, where: str, name: str
    ) -> None:
        keys = config.guards
        scored = [r for r in rollouts if r.is_correct is not None]
        self.has_correct |= any(r.is_correct for r in scored)
        values = {r.reward for r in scored} | ({self.constant} - {None})
        self.has_several |= len(values) > 1
        self.constant = next(iter(values), None)
        rounds = keys.constant_reward_rounds
        # a verdict with a reason was looked at; the value of a function may be a stub's
        is_told = any(r.reason is not None for r in scored)
        if scored and not is_told and not self.has_several and rounds == round_index:
            raise GuardStop(
                f"{where}: {name} gave every completion the reward {self.constant:g} in the first "
                f"{rounds} round(s) ({len(scored)} in this one); mend the function, or set "
                f"constant_reward_rounds (now {rounds}; none: off). "
                f"One of them: {shortened(scored[0])}"
            )
        rounds = keys.first_correct_rounds
        if scored and not self.has_correct and rounds == round_index:
            raise GuardStop(
                f"{where}: not one completion was correct by {name} in the first {rounds} "
                f"round(s) ({len(scored)} in this one); look at the reward and the answers, take "
                f"easier problems, or set first_correct_rounds (now {rounds}; none: off). "
                f"One of them: {shortened(scored[0])}"
            )


def has_no_answer(rollout: Rollout) -> bool:
    """Whether the reward looked for an answer and found none."""
    is_truncated = rollout.reason == "truncated" and rollout.answer_found is None
    return rollout.reason == "no_answer" or is_truncated


def shortened(rollout: Rollout) -> str:
    """Row and text, the middle left out."""
    text = " ".join(rollout.text.split())
    if len(text) > _MAX_CHARS:
        half = _MAX_CHARS // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return f"row {rollout.prompt.id!r}: {text!r}"
