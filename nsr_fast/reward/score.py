"""Rewards of groups: one call of a reward function, every result checked."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from math import isfinite

from nsr_fast.errors import InputError

RewardFunction = Callable[..., list[float | None]]
_OWN_ARGUMENTS = ("prompt", "prompts", "completion", "completions", "completion_ids")


def score_groups(reward_fn: RewardFunction, groups: Sequence) -> list[list[float | None]]:
    """The reward of every rollout, group by group.

    reward_fn   f(prompts, completions, completion_ids, **columns) -> list of float or None, plain
                or async; prompts are the raw problems, columns hold every other column of the
                data, one entry a rollout. A function without **columns gets those it names.
    groups      of nsr_fast.rollout.rollout.Group
    Returns     +1 correct, -1 wrong or the function's own number; None is unscored
    Raises      InputError naming function and row: an exception, a wrong length, NaN, a wrong type
    """
    rows = [(group.prompt, rollout) for group in groups for rollout in group.rollouts]
    rewards = call_reward(reward_fn, rows) if rows else []
    remaining = iter(rewards)
    return [[next(remaining) for _ in group.rollouts] for group in groups]


def call_reward(reward_fn: RewardFunction, rows: Sequence[tuple]) -> list[float | None]:
    """reward_fn on (prompt, rollout) pairs; see score_groups."""
    name = reward_name(reward_fn)
    arguments = _arguments(reward_fn, rows)
    try:
        rewards = reward_fn(**arguments)
        if inspect.isawaitable(rewards):
            rewards = asyncio.run(_awaited(rewards))
    except InputError:
        raise
    except Exception as error:  # whatever the user's code raises ends the run with its name
        raise InputError(
            f"reward: {name} raised {type(error).__name__}: {error} "
            f"{_position(error)}on {len(rows)} completions, the first of row {rows[0][0].id!r}"
        ) from error
    return _checked(rewards, rows, name)


def reward_name(reward_fn: RewardFunction) -> str:
    """module:function where known."""
    inner = inspect.unwrap(reward_fn)
    name = getattr(inner, "__qualname__", None) or type(inner).__name__
    return f"{getattr(inner, '__module__', '?')}:{name}"


def _arguments(reward_fn: RewardFunction, rows: Sequence[tuple]) -> dict[str, list]:
    names = dict.fromkeys(name for prompt, _ in rows for name in prompt.columns)
    columns = {
        name: [prompt.columns.get(name) for prompt, _ in rows]
        for name in names
        if name not in _OWN_ARGUMENTS
    }
    columns["answer"] = [prompt.answer for prompt, _ in rows]
    columns["finish_reason"] = [rollout.finish_reason for _, rollout in rows]
    arguments = {
        "prompts": [prompt.columns.get("prompt", prompt.text) for prompt, _ in rows],
        "completions": [rollout.text for _, rollout in rows],
        "completion_ids": [list(rollout.token_ids) for _, rollout in rows],
        **columns,
    }
    parameters = inspect.signature(reward_fn).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return arguments
    return {p.name: arguments[p.name] for p in parameters if p.name in arguments}


async def _awaited(rewards):
    return await rewards


def _position(error: BaseException) -> str:
    """(file:line) of the innermost frame of the traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}) " if trace else ""


def _checked(rewards: object, rows: Sequence[tuple], name: str) -> list[float | None]:
    if not hasattr(rewards, "__len__") or not hasattr(rewards, "__iter__"):
        raise InputError(f"reward: {name}: expected a list, got {type(rewards).__name__}")
    if len(rewards) != len(rows):
        raise InputError(
            f"reward: {name}: expected {len(rows)} rewards, one a completion, got {len(rewards)}"
        )
    checked: list[float | None] = []
    for reward, (prompt, _) in zip(rewards, rows, strict=True):
        try:
            value = None if reward is None else float(reward)
        except (TypeError, ValueError):
            value = float("nan")
        if value is not None and not isfinite(value):
            raise InputError(
                f"reward: {name}: row {prompt.id!r}: expected a finite number or None for "
                f"unscored, got {reward!r}"
            )
        checked.append(value)
    return checked
