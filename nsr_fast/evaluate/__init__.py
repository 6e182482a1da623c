"""Pass@k with intervals, and the report of a run."""

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
    "write_report",
]


def __getattr__(name: str):
    if name != "write_report":
        raise AttributeError(f"module 'nsr_fast.evaluate' has no attribute {name!r}")
    from nsr_fast.evaluate.report import write_report

    return write_report
