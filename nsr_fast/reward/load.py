"""Reward functions by name: "math", "countdown", "code", "module:function", "file.py:function".

Several, with weights: "math, format.py:has_box * 0.1".
"""

import importlib
import importlib.util
import inspect
import sys
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from types import ModuleType

from nsr_fast.errors import InputError
from nsr_fast.reward.combine import CombinedReward
from nsr_fast.reward.score import RewardFunction

BUILT_IN = {
    "math": "nsr_fast.reward.math:math_reward",
    "countdown": "nsr_fast.reward.countdown:countdown_reward",
    "code": "nsr_fast.reward.code:code_reward",
}


def load_reward(spec: str, *, unsafe: bool = False, extract: str = "boxed") -> RewardFunction:
    """The reward function called `spec`, built in or the user's own; see CombinedReward for lists.

    unsafe   lets the code reward run programs without a sandbox where none works
    extract  where the math reward finds the answer: boxed, lenient or paper (see MathVerifier)
    A function with worker processes starts them here, before CUDA is in use.
    Raises InputError: no such module, file or function; import errors; not callable; bad weight
    """
    parts = [part.strip() for part in spec.split(",")]
    pairs = [_weighted(part, spec) for part in parts]
    if len(pairs) == 1 and pairs[0][1] == 1.0:
        reward = pairs[0][0]
    else:
        reward = CombinedReward([function for function, _ in pairs], [w for _, w in pairs])
    options = {"extract": extract} | ({"unsafe": True} if unsafe else {})
    for function, _ in pairs:
        if hasattr(function, "start"):
            taken = inspect.signature(function.start).parameters
            function.start(**{name: value for name, value in options.items() if name in taken})
    return reward


def _weighted(part: str, spec: str) -> tuple[RewardFunction, float]:
    """(function, weight) of "name" or "name * weight"."""
    name, star, factor = part.partition("*")
    try:
        weight = float(factor) if star else 1.0
    except ValueError:
        weight = float("nan")
    if not isfinite(weight):
        raise InputError(f"reward: {spec}: expected name * number, got {part!r}")
    return _loaded(name.strip()), weight


def _loaded(spec: str) -> RewardFunction:
    module_name, colon, function_name = BUILT_IN.get(spec, spec).rpartition(":")
    if not colon or not module_name or not function_name:
        raise InputError(
            f"reward: expected {', '.join(BUILT_IN)}, module:function or file.py:function, "
            f"got {spec!r}{_nearest(spec, list(BUILT_IN))}"
        )
    if module_name.endswith(".py"):
        module = _module_from_file(Path(module_name).expanduser(), spec)
    else:
        module = _imported(module_name, spec)
    return _function(module, function_name, spec)


def _imported(module_name: str, spec: str) -> ModuleType:
    """import_module with the working directory on the path, as `python -m` has it."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(missing + "."):
            raise InputError(
                f"reward: {spec}: no module named {missing!r} "
                f"(searched {here} and the installed packages)"
            ) from None
        raise InputError(f"reward: {spec}: its import failed: {error}") from error
    except Exception as error:  # user code runs at import
        raise InputError(
            f"reward: {spec}: its import failed: {type(error).__name__}: {error}"
        ) from error


def _module_from_file(path: Path, spec: str) -> ModuleType:
    if not path.is_file():
        raise InputError(f"reward: {spec}: no such file {path} (looked in {Path.cwd()})")
    name = f"nsr_fast_user_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:  # user code runs at import
        del sys.modules[name]
        raise InputError(
            f"reward: {spec}: its import failed: {type(error).__name__}: {error}"
        ) from error
    return module


def _function(module: ModuleType, name: str, spec: str) -> RewardFunction:
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
