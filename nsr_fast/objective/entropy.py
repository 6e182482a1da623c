"""Adaptive entropy: the bonus's coefficient follows a target, one step a time.

    coef' = min(coef + delta, most)   where the last step's mean entropy <= target
            max(coef - delta, least)  elsewhere
    applied: coef where the last entropy <= target, else 0

Source: Skywork-OR1, 2505.22312, as in TRL's use_adaptive_entropy, with its numbers.
"""

from dataclasses import dataclass

from nsr_fast.objective.surrogate import check_numbers


@dataclass(frozen=True)
class AdaptiveEntropy:
    """target, in nats a token, is model and task: start near the entropy of the first rounds.

    The state of a run is two numbers, the coefficient and the last entropy; both belong into a
    checkpoint. Before the first step there is no entropy: None, and the coefficient applies.
    """

    target: float
    delta: float = 0.005
    least: float = 0.0
    most: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, "target", "delta", "least", "most")
        if self.least > self.most:
            raise ValueError(f"least: expected a number <= most={self.most}, got {self.least}")

    def next(self, coef: float, entropy: float) -> float:
        """The coefficient after a step whose trained tokens had this mean entropy."""
        if entropy <= self.target:
            return min(coef + self.delta, self.most)
        return max(coef - self.delta, self.least)

    def applied(self, coef: float, entropy: float | None) -> float:
        """What the bonus of the next step is multiplied by."""
        return coef if entropy is None or entropy <= self.target else 0.0
