"""Token weights from rewards."""

from nsr_fast.objective.objective import Objective, by_name

__all__ = ["Objective", "by_name"]
