"""A user's reward function as a part of the reward: called once a round, with every completion."""

import asyncio
import inspect
from collections.abc import Callable, Sequence

from nsr_fast.errors import InputError
from nsr_fast.reward.reward import Part
from nsr_fast.types import Rollout

_OWN_ARGUMENTS = ("prompt", "prompts", "completion", "completions", "completion_ids")


class UserFunction(Part):
    """f(prompts, completions, completion_ids, **columns) -> list of float or None, one each.

    Plain or async. `prompts` are the raw problems, `columns` hold every other column of the data;
    a function without **columns gets those it names. None is unscored.
    """

    needs_answer = False

    def __init__(self, function: Callable) -> None:
        inner = inspect.unwrap(function)
        name = getattr(inner, "__qualname__", None) or type(inner).__name__
        self.name = f"{getattr(inner, '__module__', '?')}:{name}"
        self._function = function

    def finish(self, rollouts: Sequence[Rollout], handles: Sequence[None]) -> object:
        """What the function returns for all rollouts; InputError with its place if it raises."""
        try:
            rewards = self._function(**self._arguments(rollouts))
            return asyncio.run(_awaited(rewards)) if inspect.isawaitable(rewards) else rewards
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # whatever the user's code raises names it
            raise InputError(
                f"reward: {self.name} raised {type(error).__name__}: {error} "
                f"{_position(error)}on {len(rollouts)} completions, "
                f"the first of row {rollouts[0].prompt.id!r}"
            ) from error

    def _arguments(self, rollouts: Sequence[Rollout]) -> dict[str, list]:
        """All arguments for a function with **columns, else those it names."""
        prompts = [rollout.prompt for rollout in rollouts]
        names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
        arguments = {name: [p.columns.get(name) for p in prompts] for name in names}
        for name in _OWN_ARGUMENTS:
            arguments.pop(name, None)
        arguments |= {
            "prompts": [prompt.columns.get("prompt", prompt.text) for prompt in prompts],
            "completions": [rollout.text for rollout in rollouts],
            "completion_ids": [list(rollout.token_ids) for rollout in rollouts],
            "id": [prompt.id for prompt in prompts],
            "answer": [prompt.answer for prompt in prompts],
            "finish_reason": [rollout.finish_reason for rollout in rollouts],
        }
        parameters = inspect.signature(self._function).parameters.values()
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
