"""Rewards by name: "math", "countdown", "code", "module:function", "file.py:function".

Several, with weights: "math, format.py:has_box * 0.1".
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from types import ModuleType

from nsr_fast.errors import InputError
from nsr_fast.reward.code import CodeReward
from nsr_fast.reward.countdown import Countdown
from nsr_fast.reward.math import MathReward
from nsr_fast.reward.reward import Part, Reward
from nsr_fast.reward.user import UserFunction


def load_reward(
    spec: str, *, extract: str = "boxed", unsafe: bool = False, mask_truncated: bool = False
) -> Reward:
    """The reward called `spec`: parts with weights, built in or the user's own.

    extract         where math finds the answer: boxed, lenient or paper (see math/answer.py)
    unsafe          lets code run programs without a sandbox where none works
    mask_truncated  leaves completions without an end unscored in training
    Worker processes start here, before CUDA is in use.
    Raises InputError: no such module, file or function; import errors; not callable; bad weight
    """
    built_in = {
        "math": lambda: MathReward(extract=extract),
        "countdown": Countdown,
        "code": lambda: CodeReward(unsafe=unsafe),
    }
    named = [_weighted(part, spec) for part in spec.split(",")]
    makers = [(_maker(name, built_in), weight) for name, weight in named]
    parts = [(make(), weight) for make, weight in makers]  # none starts unless all are there
    return Reward(parts, mask_truncated=mask_truncated)


def _weighted(part: str, spec: str) -> tuple[str, float]:
    """(name, weight) of "name" or "name * weight"."""
    name, star, factor = part.strip().partition("*")
    try:
        weight = float(factor) if star else 1.0
    except ValueError:
        weight = float("nan")
    if not isfinite(weight):
        raise InputError(f"reward: {spec}: expected name * number, got {part.strip()!r}")
    return name.strip(), weight


def _maker(name: str, built_in: dict[str, Callable[[], Part]]) -> Callable[[], Part]:
    """What makes the part called `name`; a user's function is loaded at once."""
    if name in built_in:
        return built_in[name]
    module_name, colon, function_name = name.rpartition(":")
    if not colon or not module_name or not function_name:
        raise InputError(
            f"reward: expected {', '.join(built_in)}, module:function or file.py:function, "
            f"got {name!r}{_nearest(name, list(built_in))}"
        )
    part = UserFunction(_function(_module(module_name, name), function_name, name))
    return lambda: part


def _module(name: str, spec: str) -> ModuleType:
    """A file's module, or an installed one; the working directory counts, as for `python -m`."""
    here, path = Path.cwd(), Path(name).expanduser()
    is_file = name.endswith(".py")
    if is_file and not path.is_file():
        raise InputError(f"reward: {spec}: no such file {path} (looked in {here})")
    if not is_file and str(here) not in sys.path and "" not in sys.path:
        sys.path.append(str(here))
    try:
        return _from_file(path) if is_file else importlib.import_module(name)
    except Exception as error:  # user code runs at import
        missing = getattr(error, "name", None) or "" if not is_file else ""
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{missing}."):
            raise InputError(
                f"reward: {spec}: no module named {missing!r} "
                f"(searched {here} and the installed packages)"
            ) from None
        raise InputError(
            f"reward: {spec}: its import failed: {type(error).__name__}: {error}"
        ) from error


def _from_file(path: Path) -> ModuleType:
    name = f"nsr_fast_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _function(module: ModuleType, name: str, spec: str) -> Callable:
    function = getattr(module, name, None)
    if function is None:
        names = [n for n, v in vars(module).items() if inspect.isfunction(v)]
        raise InputError(
            f"reward: {spec}: no function {name!r} in {module.__file__}{_nearest(name, names)}"
        )
    if not callable(function):
        raise InputError(f"reward: {spec}: expected a function, got {type(function).__name__}")
    return function


def _nearest(name: str, choices: list[str]) -> str:
    close = get_close_matches(name, choices, n=1)
    return f"; nearest: {close[0]}" if close else ""
