"""A user's reward function as a part of the reward: called once a round, with every completion."""

import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from nsr_fast.errors import InputError
from nsr_fast.reward.calls import LateError, call_plain, submit, wait_for
from nsr_fast.reward.round_log import RoundLog
from nsr_fast.types import CHAT, Prompt, Rollout

_OF_A_ROLLOUT = ("prompts", "completions", "completion_ids", "id", "answer", "solution")
_OF_A_ROLLOUT += ("finish_reason",)
_OF_A_ROUND = ("trainer_state", "log_metric", "log_extra")
_NO_COLUMNS = ("prompt", "completion", CHAT)  # of the data, never handed on


class UserFunction:
    """f(prompts, completions, completion_ids, **columns) -> list of float or None, one each.

    Plain or async. A row whose prompt is text gives texts, one of chat messages gives message
    lists. A function without **columns gets the columns that it names. None is unscored.

    name        in messages and metrics; none: module:function
    timeout_s   a call that lasts longer leaves its rollouts unscored; None: no deadline
    """

    def __init__(
        self, function: Callable, *, name: str | None = None, timeout_s: float | None = None
    ) -> None:
        inner = inspect.unwrap(function)
        own = getattr(inner, "__qualname__", None) or type(inner).__name__
        self.name = name or f"{getattr(inner, '__module__', '?')}:{own}"
        self._function, self.timeout_s = function, timeout_s
        code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
        self._file = getattr(code, "co_filename", None)
        is_async = map(inspect.iscoroutinefunction, (function, type(function).__call__))
        self._is_async = any(is_async)
        self._started: Future | None = None

    def check_rows(self, rows: list[dict], *, drop_bad_golds: bool) -> list[dict]:
        """Every argument without a default must be a column or one of ours."""
        columns = sorted({name for row in rows for name in row} - set(_NO_COLUMNS))
        known = {*columns, *_OF_A_ROLLOUT, *_OF_A_ROUND}
        for parameter in _parameters(self._function) if rows else ():
            is_named = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise InputError(
                    f"reward: {self.name}: argument {parameter.name!r} is positional only; "
                    "expected arguments that can be given by name"
                )
            if is_named and parameter.default is parameter.empty and parameter.name not in known:
                raise InputError(
                    f"reward: {self.name}: no column for its argument {parameter.name!r}; the data "
                    f"has {', '.join(columns)}; rename it, give it a default or add the column"
                )
        return rows

    def begin(self, rollout: Rollout) -> None:
        """Nothing: the function wants all of them at once."""

    def start(self, rollouts: Sequence[Rollout], log: RoundLog) -> None:
        """An async function runs from here on, beside the other parts."""
        self._log = log
        if self._is_async:
            arguments = self._arguments(rollouts)
            self._started = submit(self._function(**arguments), self.timeout_s)

    def finish(self, rollouts: Sequence[Rollout], handles: Sequence[None]) -> object:
        """What the function returns for all rollouts; InputError with its place if it raises."""
        try:
            return self._returned(rollouts)
        except InputError:
            raise
        except LateError:
            self._log.notes.append(
                f"reward: {self.name} did not return within {self.timeout_s:g} s "
                f"(reward_timeout_s) {_which(rollouts)}; they are unscored by it"
            )
            return [None] * len(rollouts)
        except (Exception, SystemExit) as error:  # whatever the user's code raises names it
            raise InputError(
                f"reward: {self.name} raised {type(error).__name__}: {error} "
                f"{_position(error, self._file)}{_which(rollouts)}"
            ) from error

    def statistics(self) -> dict[str, float]:
        """None of its own: log_metric is the function's way."""
        return {}

    def _returned(self, rollouts: Sequence[Rollout]) -> object:
        if self._started is not None:
            started, self._started = self._started, None
            return wait_for(started, self.timeout_s)
        arguments = self._arguments(rollouts)
        rewards = call_plain(lambda: self._function(**arguments), self.timeout_s, self.name)
        if inspect.isawaitable(rewards):
            return wait_for(submit(rewards, self.timeout_s), self.timeout_s)
        return rewards

    def _arguments(self, rollouts: Sequence[Rollout]) -> dict[str, object]:
        """All arguments for a function with **columns, else those it names."""
        prompts = [rollout.prompt for rollout in rollouts]
        names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
        answers = [_answer(prompt) for prompt in prompts]
        arguments: dict[str, object] = {"solution": answers}
        arguments |= {name: [p.columns.get(name) for p in prompts] for name in names}
        for name in _NO_COLUMNS:
            arguments.pop(name, None)
        arguments |= {
            "prompts": [_shown_prompt(prompt) for prompt in prompts],
            "completions": [_shown_completion(rollout) for rollout in rollouts],
            "completion_ids": [list(rollout.token_ids) for rollout in rollouts],
            "id": [prompt.id for prompt in prompts],
            "answer": answers,
            "finish_reason": [rollout.finish_reason for rollout in rollouts],
            "trainer_state": self._log.trainer_state,
            "log_metric": self._log.log_metric,
            "log_extra": self._log.log_extra,
        }
        parameters = _parameters(self._function)
        if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters):
            return arguments
        return {p.name: arguments[p.name] for p in parameters if p.name in arguments}


def _parameters(function: Callable) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:  # built in: nothing is known, so it gets everything
        return [inspect.Parameter("columns", inspect.Parameter.VAR_KEYWORD)]


def _answer(prompt: Prompt) -> object:
    return prompt.columns.get("solution") if prompt.answer is None else prompt.answer


def _is_chat(prompt: Prompt) -> bool:
    return bool(prompt.columns.get(CHAT)) or isinstance(prompt.columns.get("prompt"), list)


def _shown_prompt(prompt: Prompt) -> object:
    """The raw problem: message lists where the row has messages, else text."""
    raw = prompt.columns.get("prompt", prompt.text)
    is_text = _is_chat(prompt) and isinstance(raw, str)
    return [{"role": "user", "content": raw}] if is_text else raw


def _shown_completion(rollout: Rollout) -> object:
    message = {"role": "assistant", "content": rollout.text}
    return [message] if _is_chat(rollout.prompt) else rollout.text


def _which(rollouts: Sequence[Rollout]) -> str:
    return f"on {len(rollouts)} completions, the first of row {rollouts[0].prompt.id!r}"


def _position(error: BaseException, file: str | None) -> str:
    """(file:line) of the innermost frame in the user's file, else of the innermost frame."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    own = [frame for frame in frames if frame[0] == file] or frames
    return "({}:{}) ".format(*own[-1]) if own else ""
