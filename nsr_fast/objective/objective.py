"""Objectives as two sign weights (arXiv 2506.01347, equations 1-4 and 9).

The weight of a rollout times the advantage-free policy gradient is the whole method; ratio clipping
and corrections for a stale sampler belong to the surrogate, not here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True, slots=True)
class Objective:
    """Token weight of a correct and of a wrong rollout.

        loss = -(1/N) sum_t w_t r_t      r_t = exp(logprob_t - old_logprob_t), w_t = sequence_weight

        name              correct   wrong
        PSR               +1        0 (dropped)
        NSR               0         -1
        W-REINFORCE(l)    +l        -1       l = 0.1 in the paper
        REINFORCE         +1        -1

    Gradient with respect to the logits, p = softmax(z):

        dL/dz_v = -(1/N) w_t r_t (1[v = y_t] - p_v)

    Traps, all of them in the paper's reference code:
    * The paper's equations 6-8 differentiate the probability and carry one more factor p_y; the
      code (and this project) differentiates the ratio, so no factor damps unlikely tokens.
    * Rows of weight 0 are dropped before minibatches are cut: PSR and NSR take fewer updates on a
      round than W-REINFORCE, and N counts only kept tokens.
    * N: the paper's text averages over each response's tokens, the code over the tokens of a
      micro-batch weighted by rows. Here N is the number of kept tokens of the whole minibatch.
    * Clipping max(-w r, -w clip(r, 0.8, 1.2)) is one-sided: with w < 0 the gradient stops at
      r < 0.8 and grows without limit for r > 1.2. With one update per round r = 1: no clipping.
    * The advantages of a group are never whitened: that would make a constant weight 0.

    positive_weight   >= 0
    negative_weight   <= 0
    Raises ValueError on a sign or a value that is not finite.
    """

    positive_weight: float
    negative_weight: float

    def __post_init__(self) -> None:
        if not (isfinite(self.positive_weight) and self.positive_weight >= 0):
            raise ValueError(
                f"positive_weight: expected a finite number >= 0, got {self.positive_weight}"
            )
        if not (isfinite(self.negative_weight) and self.negative_weight <= 0):
            raise ValueError(
                f"negative_weight: expected a finite number <= 0, got {self.negative_weight}; "
                "wrong rollouts are pushed down, so write it with a minus sign"
            )

    @classmethod
    def psr(cls) -> "Objective":
        """Positive sample reinforcement: learn from correct rollouts only."""
        return cls(1.0, 0.0)

    @classmethod
    def nsr(cls) -> "Objective":
        """Negative sample reinforcement: learn from wrong rollouts only."""
        return cls(0.0, -1.0)

    @classmethod
    def w_reinforce(cls, positive_weight: float = 0.1) -> "Objective":
        """Weighted REINFORCE; 0 is NSR, 1 is REINFORCE (equation 9 calls the weight lambda)."""
        return cls(positive_weight, -1.0)

    @classmethod
    def reinforce(cls) -> "Objective":
        """Both signs at full weight."""
        return cls(1.0, -1.0)

    def sequence_weight(self, reward: float | None) -> float:
        """The weight of every token of one rollout: reward > 0 is correct, None is unscored (0)."""
        if reward is None:
            return 0.0
        if reward != reward:
            raise ValueError("reward: expected a number or None, got NaN; return None for unscored")
        return self.positive_weight if reward > 0 else self.negative_weight


_BY_NAME: dict[str, Callable[[], Objective]] = {
    "psr": Objective.psr,
    "nsr": Objective.nsr,
    "w_reinforce": Objective.w_reinforce,
    "reinforce": Objective.reinforce,
}


def by_name(name: str) -> Objective:
    """The objective called `name`: psr, nsr, w_reinforce (weight 0.1) or reinforce."""
    if name not in _BY_NAME:
        raise ValueError(f"objective: expected one of {', '.join(_BY_NAME)}, got {name!r}")
    return _BY_NAME[name]()
