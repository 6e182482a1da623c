"""Where in a run something goes wrong, and what: installed in the process of the run.

A place is a name of PLACES; the fault happens there at its `turn`-th time.
    kill          SIGKILL of the process, there and then
    wait          the file `here` appears; goes on once `go` is there
    limit N       no file may grow beyond N bytes from here on, as on a full disk
    ignore NAME   that signal, as nohup does
    nothing       what the place does is enough
    raise NAME    the error of that name of nsr_fast.errors, or a built-in one
"""

import builtins
import importlib
import itertools
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

from cli import seams

from nsr_fast import errors


@dataclass(frozen=True)
class Fault:
    place: str
    turn: int = 1
    does: str = "kill"


def install(fault: Fault, folder: Path) -> None:
    """`folder` is where the files `here` and `go` are."""
    turns = itertools.count(1)

    def happen() -> None:
        if next(turns) == fault.turn:
            _do(fault.does, folder)

    PLACES[fault.place](happen)


def _do(does: str, folder: Path) -> None:
    verb, _, word = does.partition(" ")
    if verb == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "wait":
        (folder / "here").touch()
        while not (folder / "go").exists():
            time.sleep(0.02)
    elif verb == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(word), resource.RLIM_INFINITY))
    elif verb == "ignore":
        signal.signal(getattr(signal, word), signal.SIG_IGN)
    elif verb == "raise":
        raise (getattr(errors, word, None) or getattr(builtins, word))(f"raised at a {word} test")


def _owner(seam: str) -> tuple[object, str]:
    """The module or class that holds the name, and the name."""
    owner, _, name = seam.rpartition(".")
    try:
        return importlib.import_module(owner), name
    except ModuleNotFoundError:
        module, _, class_name = owner.rpartition(".")
        return getattr(importlib.import_module(module), class_name), name


def _around(seam: str, is_before: bool) -> Callable:
    def place(happen: Callable) -> None:
        owner, name = _owner(seam)
        real = getattr(owner, name)

        @wraps(real)
        def changed(*arguments, **options):
            if is_before:
                happen()
            value = real(*arguments, **options)
            if not is_before:
                happen()
            return value

        setattr(owner, name, changed)

    return place


def _generating(is_wanted: Callable[[str], bool]) -> Callable:
    """In the middle of a rollout phase: one batch is there, the others are not."""

    def place(happen: Callable) -> None:
        owner, name = _owner(seams.ENGINE_GENERATE)
        real = getattr(owner, name)

        def changed(self, prompts, *arguments, **options):
            stream = real(self, prompts, *arguments, **options)
            yield next(stream)
            if is_wanted(prompts[0].id):
                happen()
            yield from stream

        setattr(owner, name, changed)

    return place


def _backward(happen: Callable) -> None:
    owner, name = _owner(seams.TRUNK_PASS)
    real = getattr(owner, name)

    def changed(*arguments, **options):
        hidden = real(*arguments, **options)
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: happen())
        return hidden

    setattr(owner, name, changed)


def _not_a_number(happen: Callable) -> None:
    """The gradient of the third pass is NaN."""
    owner, name = _owner(seams.TRUNK_PASS)
    real, passes = getattr(owner, name), itertools.count(1)

    def changed(*arguments, **options):
        hidden = real(*arguments, **options)
        if hidden.requires_grad and next(passes) == 3:
            happen()
            hidden.register_hook(lambda gradient: gradient * float("nan"))
        return hidden

    setattr(owner, name, changed)


def _torn_line(happen: Callable) -> None:
    """Half of a round's line is in the file."""
    owner, name = _owner(seams.LOG_ROUND)
    real = getattr(owner, name)

    def changed(self, metrics):
        real(self, metrics)
        path = self.path / "metrics.jsonl"
        whole = path.read_bytes()
        start = whole.rstrip(b"\n").rfind(b"\n") + 1
        os.truncate(path, (start + len(whole)) // 2)
        happen()
        path.write_bytes(whole)

    setattr(owner, name, changed)


PLACES = {
    "start": lambda happen: happen(),
    "rollout": _generating(lambda name: name.startswith("t")),
    "evaluation": _generating(lambda name: name.startswith("e")),
    "backward": _backward,
    "third gradient": _not_a_number,
    "step": _around(seams.DEVICE_STEP, is_before=False),
    "sync": _around(seams.WEIGHTS_UPDATED, is_before=False),
    "metrics line": _around(seams.LOG_ROUND, is_before=True),
    "torn metrics line": _torn_line,
    "save begun": _around(seams.SAVE_MODEL, is_before=True),
    "weights written": _around(seams.SAVE_MODEL, is_before=False),
    "all but the manifest": _around(seams.SEAL, is_before=True),
    "sealed": _around(seams.PUT_IN_PLACE, is_before=True),
    "in place": _around(seams.PUT_IN_PLACE, is_before=False),
    "linked": _around(seams.LINK, is_before=False),
    "pruned": _around(seams.PRUNE, is_before=True),
}
