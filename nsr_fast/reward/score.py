"""Rewards of groups: one call of a reward function, every result checked."""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import isfinite

from nsr_fast.errors import InputError

RewardFunction = Callable[..., list[float | None]]
Rewards = list[list[float | None]]
_OWN_ARGUMENTS = ("prompt", "prompts", "completion", "completions", "completion_ids")


def score_groups(reward_fn: RewardFunction, groups: Sequence) -> Rewards:
    """The reward of every rollout, group by group.

    reward_fn   f(prompts, completions, completion_ids, **columns) -> list of float or None, plain
                or async; prompts are the raw problems, columns hold every other column of the
                data, one entry a rollout. A function without **columns gets those it names.
    groups      of nsr_fast.types.Group
    Returns     +1 correct, -1 wrong or the function's own number; None is unscored
    Raises      InputError naming function and row: an exception, a wrong length, NaN, a wrong type
    """
    rows = [(group.prompt, rollout) for group in groups for rollout in group.rollouts]
    return _regrouped(call_reward(reward_fn, _arguments(rows)) if rows else [], groups)


def submit_groups(reward_fn: RewardFunction, groups: Sequence) -> Callable[[], Rewards]:
    """score_groups in the background; the call of what is returned waits for the rewards.

    A reward with a method `submit` (the built-in "math") scores in its own processes, any other
    function in one thread, in the order of submission.
    """
    rows = [(group.prompt, rollout) for group in groups for rollout in group.rollouts]
    if not rows:
        return lambda: _regrouped([], groups)
    arguments = _arguments(rows)
    if not hasattr(reward_fn, "submit"):
        future = _background().submit(call_reward, reward_fn, arguments)
        return lambda: _regrouped(future.result(), groups)
    collect = reward_fn.submit(**accepted_arguments(reward_fn, arguments))
    ids, name = arguments["id"], reward_name(reward_fn)
    return lambda: _regrouped(checked_rewards(collect(), ids, name), groups)


def call_reward(reward_fn: RewardFunction, arguments: Mapping[str, list]) -> list[float | None]:
    """The checked rewards of one call; arguments as score_groups describes them."""
    name, ids = reward_name(reward_fn), arguments["id"]
    try:
        rewards = reward_fn(**accepted_arguments(reward_fn, arguments))
        if inspect.isawaitable(rewards):
            rewards = asyncio.run(_awaited(rewards))
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code raises names it
        raise InputError(
            f"reward: {name} raised {type(error).__name__}: {error} "
            f"{_position(error)}on {len(ids)} completions, the first of row {ids[0]!r}"
        ) from error
    return checked_rewards(rewards, ids, name)


def accepted_arguments(reward_fn: RewardFunction, arguments: Mapping[str, list]) -> dict[str, list]:
    """All arguments for a function with **columns, else those it names."""
    parameters = inspect.signature(reward_fn).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return dict(arguments)
    return {p.name: arguments[p.name] for p in parameters if p.name in arguments}


def reward_name(reward_fn: RewardFunction) -> str:
    """module:function where known."""
    inner = inspect.unwrap(reward_fn)
    name = getattr(inner, "__qualname__", None) or type(inner).__name__
    return f"{getattr(inner, '__module__', '?')}:{name}"


def checked_rewards(rewards: object, ids: Sequence, name: str) -> list[float | None]:
    """The rewards as floats; InputError on a wrong length, NaN or a wrong type."""
    if not hasattr(rewards, "__len__") or not hasattr(rewards, "__iter__"):
        raise InputError(f"reward: {name}: expected a list, got {type(rewards).__name__}")
    if len(rewards) != len(ids):
        raise InputError(
            f"reward: {name}: expected {len(ids)} rewards, one a completion, got {len(rewards)}"
        )
    checked: list[float | None] = []
    for reward, row_id in zip(rewards, ids, strict=True):
        try:
            value = None if reward is None else float(reward)
        except (TypeError, ValueError):
            value = float("nan")
        if value is not None and not isfinite(value):
            raise InputError(
                f"reward: {name}: row {row_id!r}: expected a finite number or None for "
                f"unscored, got {reward!r}"
            )
        checked.append(value)
    return checked


def _arguments(rows: Sequence[tuple]) -> dict[str, list]:
    names = dict.fromkeys(name for prompt, _ in rows for name in prompt.columns)
    columns = {
        name: [prompt.columns.get(name) for prompt, _ in rows]
        for name in names
        if name not in _OWN_ARGUMENTS
    }
    columns["id"] = [prompt.id for prompt, _ in rows]
    columns["answer"] = [prompt.answer for prompt, _ in rows]
    columns["finish_reason"] = [rollout.finish_reason for _, rollout in rows]
    return {
        "prompts": [prompt.columns.get("prompt", prompt.text) for prompt, _ in rows],
        "completions": [rollout.text for _, rollout in rows],
        "completion_ids": [list(rollout.token_ids) for _, rollout in rows],
        **columns,
    }


def _regrouped(rewards: Sequence[float | None], groups: Sequence) -> Rewards:
    remaining = iter(rewards)
    return [[next(remaining) for _ in group.rollouts] for group in groups]


_executor: ThreadPoolExecutor | None = None


def _background() -> ThreadPoolExecutor:
    global _executor
    if _executor is None:
        _executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward")
    return _executor


async def _awaited(rewards):
    return await rewards


def _position(error: BaseException) -> str:
    """(file:line) of the innermost frame of the traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}) " if trace else ""
