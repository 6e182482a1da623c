"""Calls of a user's functions, each with a deadline.

Plain ones run in the main thread, because libraries that set alarms work nowhere else; a signal
ends them at the deadline. Outside the main thread they run in a thread that is left behind. Async
ones share one event loop in a thread of its own, so that what they keep at module level (locks,
clients) works in every round.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import cache

_SIGNAL = getattr(signal, "SIGRTMIN", signal.SIGUSR2 - 9) + 9  # no one else's
_GRACE_S = 30  # a call that no signal ends (C code) ends the process so long after its deadline


class LateError(BaseException):
    """A call did not return before its deadline; `except Exception` of a user cannot hold it."""


def call_plain(call: Callable[[], object], seconds: float | None, name: str) -> object:
    """What `call` returns; LateError after `seconds` (None: no deadline)."""
    if seconds is None:
        return call()
    if threading.current_thread() is threading.main_thread():
        return _interrupted(call, seconds, name)
    return _left_behind(call, seconds)


def submit(awaitable: Awaitable, seconds: float | None) -> Future:
    """Starts an awaitable on the loop of this process; wait_for gives its result."""
    return asyncio.run_coroutine_threadsafe(_within(awaitable, seconds), _loop())


def wait_for(future: Future, seconds: float | None) -> object:
    """The result of `submit`; LateError at its deadline, also where the loop itself is blocked."""
    try:
        value, error = future.result(None if seconds is None else seconds + 1.0)
    except TimeoutError:
        _loop.cache_clear()  # a coroutine blocks it for good
        raise LateError from None
    if error is not None:
        raise error
    return value


def _interrupted(call: Callable[[], object], seconds: float, name: str) -> object:
    is_over, caller = threading.Event(), threading.get_ident()

    def late(*_: object) -> None:
        if not is_over.is_set():
            raise LateError

    def watch() -> None:
        if is_over.wait(seconds):
            return
        for _ in range(_GRACE_S):
            signal.pthread_kill(caller, _SIGNAL)
            if is_over.wait(1.0):
                return
        print(
            f"nsr-fast: reward: {name}: did not return within {seconds:g} s "
            "(reward_timeout_s) and cannot be interrupted; the run ends",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    watcher = threading.Thread(target=watch, daemon=True, name="reward deadline")
    before = signal.signal(_SIGNAL, late)
    try:
        watcher.start()
        return call()
    finally:
        is_over.set()
        watcher.join()
        signal.signal(_SIGNAL, before)


def _left_behind(call: Callable[[], object], seconds: float) -> object:
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="reward").start()
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():
            raise  # the user's own
        raise LateError from None


async def _within(
    awaitable: Awaitable, seconds: float | None
) -> tuple[object, BaseException | None]:
    async def guarded() -> tuple[object, BaseException | None]:
        try:
            return await awaitable, None
        except (Exception, SystemExit) as error:  # SystemExit would end the loop
            return None, error

    task = asyncio.ensure_future(guarded())
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if done:
        return task.result()
    task.cancel()
    return None, LateError()


def forget_loop() -> None:
    """After a fork: the parent's loop does not run here."""
    _loop.cache_clear()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="reward loop").start()
    return loop
