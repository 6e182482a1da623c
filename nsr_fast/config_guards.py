"""Every guard: the setting that limits it, when it looks, what it does and may do instead.

sampled     before anything is trained on the round
step        before an optimizer step (drift: before the first of a round)
evaluated   after an evaluation
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nsr_fast.config_types import GuardAction, GuardName
from nsr_fast.errors import InputError

if TYPE_CHECKING:
    from nsr_fast.config import Config


@dataclass(frozen=True, slots=True)
class Guard:
    key: str
    when: Literal["sampled", "step", "evaluated"]
    actions: tuple[GuardAction, ...]  # the first is the default


_STOPS = ("stop", "warn", "skip")
_AFTER = ("warn", "stop", "raise_lambda")
_WARNS = ("warn", "skip", "stop", "raise_lambda")
GUARDS: dict[GuardName, Guard] = {
    "max_truncated": Guard("max_truncated", "sampled", _STOPS),
    "max_no_answer": Guard("max_no_answer", "sampled", _STOPS),
    "max_unscored": Guard("max_unscored", "sampled", _STOPS),
    "constant_reward_rounds": Guard("constant_reward_rounds", "sampled", _STOPS),
    "first_correct_rounds": Guard("first_correct_rounds", "sampled", _STOPS),
    "entropy_floor": Guard("entropy_floor", "sampled", _WARNS),
    "entropy_ceiling": Guard("entropy_ceiling", "sampled", _WARNS),
    "max_repetition": Guard("max_repetition", "sampled", _WARNS),
    "max_length_change": Guard("max_length_change", "sampled", _WARNS),
    "drift_limit": Guard("drift_limit", "step", _STOPS),
    "non_finite": Guard("max_skipped_steps", "step", ("skip", "stop")),
    "max_pass_at_1_drop": Guard("max_pass_at_1_drop", "evaluated", _AFTER),
}


def check_guard_actions(config: "Config") -> None:
    """InputError for an action that a guard cannot take, or of a guard that is off."""
    for name, action in config.limits.guard_actions.items():
        guard = GUARDS[name]
        if action not in guard.actions:
            raise InputError(
                f"guard_actions: {name}: expected {', '.join(guard.actions)}, got {action}; "
                f"{_why_not(name, guard, action)}"
            )
        if action == "raise_lambda":
            _check_lambda(config, name)
        needs = config.unused().get(guard.key)
        if needs and name != "non_finite":
            raise InputError(f"guard_actions: {name}: needs {needs}; it is off, so remove it")
        if name == "drift_limit" and config.sampling.sampling.is_truncated:
            raise InputError(
                f"guard_actions: {name}: that guard is off with top_p {config.sampling.top_p} and "
                f"top_k {config.sampling.top_k}; remove it"
            )
        if name != "drift_limit" and _limit(config, guard.key) is None:
            raise InputError(
                f"guard_actions: {name}: {guard.key} is none, so that guard is off; remove it, or "
                f"give {guard.key} a value"
            )


def _why_not(name: str, guard: Guard, action: str) -> str:
    if action == "raise_lambda":
        return "more weight on correct rollouts is no cure for it"
    if guard.when == "evaluated":
        return "after an evaluation there is nothing to skip"
    return "a step without finite numbers is never taken"


def _check_lambda(config: "Config", name: str) -> None:
    keys = config.objective
    if keys.objective != "w_reinforce":
        raise InputError(
            f"guard_actions: {name}=raise_lambda: expected objective w_reinforce, got "
            f"{keys.objective}, which has no psr_weight to raise; choose warn or stop"
        )
    if keys.psr_weight >= 1:
        raise InputError(
            f"guard_actions: {name}=raise_lambda: expected psr_weight below 1, up to which it is "
            f"raised, got {keys.psr_weight:g}; choose warn or stop"
        )


def _limit(config: "Config", key: str) -> float | None:
    group = config.limits if key in type(config.limits).model_fields else config.guards
    return getattr(group, key)
