"""Verifiable rewards: +1 correct, -1 wrong, None unscored."""

from nsr_fast.reward.load import load_reward
from nsr_fast.reward.math import usable_rows, verify_math
from nsr_fast.reward.reward import Reward, Scoring
from nsr_fast.reward.verdict import Score, Verdict

__all__ = [
    "Reward",
    "Score",
    "Scoring",
    "Verdict",
    "load_reward",
    "usable_rows",
    "verify_math",
]
