"""Rewards by name: "math", "countdown", "code", "module:function", "file.py:function".

Several, with weights: "math, format.py:has_box * 0.1", or a list and reward_weights.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from types import ModuleType

from nsr_fast.errors import InputError
from nsr_fast.reward.code import CodeReward
from nsr_fast.reward.countdown import Countdown
from nsr_fast.reward.math import MathReward
from nsr_fast.reward.modules import module_of_file
from nsr_fast.reward.reward import Part, Reward
from nsr_fast.reward.user import UserFunction


def load_reward(
    spec: str | Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    correct_by: str | None = None,
    timeout_s: float | None = None,
    extract: str = "boxed",
    unsafe: bool = False,
    mask_truncated: bool = False,
) -> Reward:
    """The reward called `spec`: parts with weights, built in or the user's own.

    weights         one a part, instead of "* weight" in the names
    correct_by      the part that decides correct, wrong or unscored; None: the first
    timeout_s       deadline of one call of a user's function; None: none
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
    named = _named(spec, weights)
    decider = _decider([name for name, _ in named], correct_by)
    modules: dict[str, ModuleType] = {}
    makers = [(_maker(name, built_in, modules, timeout_s), weight) for name, weight in named]
    parts = [(make(), weight) for make, weight in makers]  # none starts unless all are there
    return Reward(parts, decider=decider, mask_truncated=mask_truncated)


def _named(spec: str | Sequence[str], weights: Sequence[float] | None) -> list[tuple[str, float]]:
    """(name, weight) of every part."""
    named = [_weighted(part, spec) for part in (spec.split(",") if isinstance(spec, str) else spec)]
    if weights is None:
        return named
    if any("*" in part for part in ([spec] if isinstance(spec, str) else spec)):
        raise InputError(f"reward_weights: expected reward without '*' beside it, got {spec}")
    if len(weights) != len(named):
        raise InputError(
            f"reward_weights: expected {len(named)} numbers, one a function of reward, "
            f"got {len(weights)}"
        )
    return [(name, weight) for (name, _), weight in zip(named, weights)]


def _decider(names: Sequence[str], correct_by: str | None) -> int:
    if correct_by is None:
        return 0
    found = [i for i, name in enumerate(names) if correct_by in (name, name.rpartition(":")[2])]
    if len(found) != 1:
        raise InputError(
            f"correct_by: expected one of the functions of reward ({', '.join(names)}), "
            f"got {correct_by!r}{_nearest(correct_by, list(names))}"
        )
    return found[0]


def _weighted(part: str, spec: object) -> tuple[str, float]:
    """(name, weight) of "name" or "name * weight"."""
    name, star, factor = part.strip().partition("*")
    try:
        weight = float(factor) if star else 1.0
    except ValueError:
        weight = float("nan")
    if not isfinite(weight):
        raise InputError(f"reward: {spec}: expected name * number, got {part.strip()!r}")
    return name.strip(), weight


def _maker(
    name: str,
    built_in: dict[str, Callable[[], Part]],
    modules: dict[str, ModuleType],
    timeout_s: float | None,
) -> Callable[[], Part]:
    """What makes the part called `name`; a user's function is loaded at once.

    modules   those loaded for this reward: functions of one file share it
    """
    if name in built_in:
        return built_in[name]
    module_name, colon, function_name = name.rpartition(":")
    if not colon or not module_name or not function_name:
        raise InputError(
            f"reward: expected {', '.join(built_in)}, module:function or file.py:function, "
            f"got {name!r}{_nearest(name, list(built_in))}"
        )
    is_file = module_name.endswith(".py")
    key = str(Path(module_name).expanduser().resolve()) if is_file else module_name
    if key not in modules:
        modules[key] = _module(module_name, name)
    function = _function(modules[key], function_name, name)
    shown = f"{Path(module_name).stem if is_file else module_name}:{function_name}"
    return lambda: UserFunction(function, name=shown, timeout_s=timeout_s)


def _module(name: str, spec: str) -> ModuleType:
    """A file's module, or an installed one; the working directory counts, as for `python -m`."""
    here, path = Path.cwd(), Path(name).expanduser()
    is_file = name.endswith(".py")
    if is_file and not path.is_file():
        raise InputError(f"reward: {spec}: no such file {path} (looked in {here})")
    if not is_file and str(here) not in sys.path and "" not in sys.path:
        sys.path.append(str(here))
    try:
        return module_of_file(path) if is_file else importlib.import_module(name)
    except (Exception, SystemExit) as error:  # user code runs at import
        missing = getattr(error, "name", None) or "" if not is_file else ""
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{missing}."):
            raise InputError(
                f"reward: {spec}: no module named {missing!r} "
                f"(searched {here} and the installed packages)"
            ) from None
        raise InputError(
            f"reward: {spec}: its import failed: {type(error).__name__}: {error}"
        ) from error


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
