"""Verifiable rewards: +1 correct, -1 wrong, None unscored."""

from importlib import import_module

from nsr_fast.reward.load import load_reward
from nsr_fast.reward.score import score_groups

_LAZY = {"Verdict": "nsr_fast.reward.verdict", "verify_math": "nsr_fast.reward.math"}

__all__ = ["Verdict", "load_reward", "score_groups", "verify_math"]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'nsr_fast.reward' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
