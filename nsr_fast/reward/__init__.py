"""Verifiable rewards: +1 correct, -1 wrong, None unscored."""

from nsr_fast.reward.load import load_reward
from nsr_fast.reward.math import verify_math
from nsr_fast.reward.score import score_groups, submit_groups
from nsr_fast.reward.verdict import Score, Verdict

__all__ = ["Score", "Verdict", "load_reward", "score_groups", "submit_groups", "verify_math"]
