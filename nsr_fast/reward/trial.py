"""One trial call of every user function before a model is loaded: mistakes show in a second.

The call happens once, in a forked child, so that counters, locks and clients of the module are as
they were; what it writes to files or sends stays written and sent. The function sees the first row
with num_generations made-up completions and trainer_state.global_step 0.
"""

import os
import pickle
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress

from nsr_fast.errors import InputError
from nsr_fast.reward.calls import forget_loop
from nsr_fast.reward.reward import Part, checked_rewards
from nsr_fast.reward.round_log import RoundLog
from nsr_fast.reward.user import UserFunction
from nsr_fast.types import Prompt, Rollout

LIMIT_S = 20.0


def trial_texts(count: int) -> list[str]:
    """The made-up completions."""
    return [rf"The answer is \boxed{{{i}}}." for i in range(count)]


def trial_calls(parts: Sequence[Part], rows: Sequence[dict], num_generations: int) -> list[str]:
    """Calls the user's functions among `parts`; InputError as it would end a round.

    Returns lines for the user: a call that did not return in time is left to the first round.
    """
    own = [part for part in parts if isinstance(part, UserFunction)]
    torch = sys.modules.get("torch")
    is_cuda = torch is not None and torch.cuda.is_initialized()  # no child may use it then
    if not own or not rows or is_cuda or not hasattr(os, "fork"):
        return []
    row = rows[0]
    prompt = Prompt(row["id"], str(row["prompt"]), (0,), row.get("answer"), row)
    rollouts = [
        Rollout(prompt, (0,), (0.0,), text, "stop") for text in trial_texts(num_generations)
    ]
    return [line for part in own if (line := _trial(part, rollouts))]


def _trial(part: UserFunction, rollouts: list[Rollout]) -> str | None:
    limit = LIMIT_S if part.timeout_s is None else min(LIMIT_S, part.timeout_s)
    answer = _in_child(part, rollouts, limit)
    if answer is None:
        return (
            f"reward: {part.name}: a trial call with {len(rollouts)} made-up completions did not "
            f"return within {limit:g} s; the first round will tell"
        )
    if answer:
        raise InputError(f"{answer} (a trial call with made-up completions)")
    return None


def _in_child(part: UserFunction, rollouts: list[Rollout], seconds: float) -> str | None:
    """The error's message, "" if there is none, None if the child did not answer."""
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads: the child runs this call only
        child = os.fork()
    if child == 0:
        _answer(part, rollouts, writer)
    os.close(writer)
    try:
        is_there = select.select([reader], [], [], seconds)[0]
        data = _read(reader) if is_there else b""
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # with what it started
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if is_there and not data:
        return f"reward: {part.name} ended the process"
    return pickle.loads(data) if data else None


def _answer(part: UserFunction, rollouts: list[Rollout], writer: int) -> None:
    """The child: calls, writes the message, never returns."""
    message = ""
    try:
        os.setpgrp()
        forget_loop()
        part.timeout_s = None
        part.start(rollouts, RoundLog(rollouts=rollouts))
        checked_rewards(part.finish(rollouts, [None] * len(rollouts)), rollouts, part.name)
    except InputError as error:
        message = str(error)
    except BaseException as error:
        message = f"reward: {part.name}: {''.join(traceback.format_exception_only(error)).strip()}"
    finally:
        os.write(writer, pickle.dumps(message))
        os._exit(0)


def _read(reader: int) -> bytes:
    parts = []
    while part := os.read(reader, 1 << 16):
        parts.append(part)
    return b"".join(parts)
