"""Pass@k with intervals."""

from nsr_fast.evaluate.pass_at_k import (
    Difference,
    PassAtK,
    paired_difference,
    pass_at_k,
    pass_at_k_curve,
)

__all__ = [
    "Difference",
    "PassAtK",
    "paired_difference",
    "pass_at_k",
    "pass_at_k_curve",
]
