"""Mathematics: answers of responses against golds; the only room that may use sympy."""

from nsr_fast.reward.math.answer import accepted_answers
from nsr_fast.reward.math.golds import check_golds, gold_faults, usable_rows
from nsr_fast.reward.math.reward import MathReward, score_math, verify_math
from nsr_fast.reward.math.verifier import MathVerifier, quantile

__all__ = [
    "MathReward",
    "MathVerifier",
    "accepted_answers",
    "check_golds",
    "gold_faults",
    "quantile",
    "score_math",
    "usable_rows",
    "verify_math",
]
