"""Factors of the weight from the token's own probability p and entropy H, held constant.

A rule is a frozen dataclass: called with TokenRows it gives a factor [C] >= 0 that multiplies
token_weight before the policy term. Rules run inside the pass, on numbers of the policy as it is
now, and cost no pass of their own; a rule whose threshold is a quantile of the minibatch needs one
and is a preparation (nsr_fast/objective/sequence.py). A factor of 0 silences a row but does not
skip its work, and the denominator still counts it.
"""

from dataclasses import dataclass, replace
from math import log
from typing import ClassVar

import torch
from torch import Tensor

from nsr_fast.kernels.tokens import TokenRows
from nsr_fast.objective.surrogate import check_numbers

SIGNS = ("positive", "negative", "both")


@dataclass(frozen=True)
class SilenceSpurious:
    """0 where p < probability and H < entropy and the weight has the sign `on`, else 1.

    An unlikely token where the policy was sure is a slip that inherited its rollout's reward; it
    has the largest gradient of all. The paper silences those of correct rollouts only
    (on="positive") and counts N without them; on="negative" is untested by anyone. Thresholds that
    are quantiles: SpuriousTokens of objective/sequence.py.
    Source: STAPO, 2602.15620, probability 0.002; its entropy threshold is a low quantile, so the
    number here is ours.
    """

    probability: float = 0.002
    entropy: float = 0.1
    on: str = "positive"

    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_numbers(self, "probability", "entropy")
        check_sign(self.on)

    def __call__(self, rows: TokenRows) -> Tensor:
        w = rows.token_weight
        is_spurious = is_of_sign(w, self.on) & (rows.entropy < self.entropy)
        is_spurious &= rows.logprob.exp() < self.probability
        return torch.where(is_spurious, 0.0, 1.0).to(w.dtype)


@dataclass(frozen=True)
class EntropyScale:
    """max(0, 1 - f + f H), f = entropy_share of the row: how far the entropy scales its weight.

    The weight rule writes the share: 1 multiplies by H; 1 / (1 - cap) with a weight times 1 - cap
    multiplies by cap - H, and the floor keeps the sign where H > cap.
    Source: ours, for RL-ZVP (2509.21880) without a pass beforehand; the paper's form for wrong
    rollouts is ZeroVariance of objective/sequence.py.
    """

    needs: ClassVar[tuple[str, ...]] = ("entropy_share",)

    def __call__(self, rows: TokenRows) -> Tensor:
        share = rows.entropy_share
        return (1.0 - share + share * rows.entropy).clamp(min=0.0)


@dataclass(frozen=True)
class MinEntropy:
    """0 where H < entropy, else 1: a known threshold in place of TopEntropy's quantile."""

    entropy: float

    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_numbers(self, "entropy")

    def __call__(self, rows: TokenRows) -> Tensor:
        return (rows.entropy >= self.entropy).to(rows.token_weight.dtype)


@dataclass(frozen=True)
class PolarTokens:
    """`positive` where w > 0 and p < below, `negative` where w < 0 and p > above, else 1.

    Correct rollouts teach most by their surprising tokens, wrong ones by those the policy was sure
    of. annealed(share) shrinks both factors to 1 over a run.
    Source: ours: the idea of A3PO (2512.21625) with thresholds on the policy's own probability.
    A3PO itself ranks the sampler's logprobs within a rollout, which the weights can do.
    """

    positive: float = 2.0
    negative: float = 2.0
    below: float = 0.2
    above: float = 0.8

    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_numbers(self, "positive", "negative")
        for name in ("below", "above"):
            if not 0.0 < getattr(self, name) <= 1.0:
                got = getattr(self, name)
                raise ValueError(f"{name}: expected a probability in (0, 1], got {got!r}")

    def annealed(self, share: float) -> "PolarTokens":
        """With factors moved towards 1 by `share`, 0 at the start of a run and 1 at its end."""
        return replace(
            self, positive=fade(self.positive, share), negative=fade(self.negative, share)
        )

    def __call__(self, rows: TokenRows) -> Tensor:
        w, logprob = rows.token_weight, rows.logprob
        factor = torch.ones_like(w)
        factor = torch.where((w > 0) & (logprob < log(self.below)), self.positive, factor)
        return torch.where((w < 0) & (logprob > log(self.above)), self.negative, factor)


def fade(factor: float, share: float) -> float:
    """factor at share 0, 1 at share 1, linear between."""
    return 1.0 + (factor - 1.0) * (1.0 - share)


def check_sign(on: str) -> None:
    if on not in SIGNS:
        raise ValueError(f"on: expected one of {', '.join(SIGNS)}, got {on!r}")


def is_of_sign(weight: Tensor, on: str) -> Tensor:
    """Where the weight has the sign that `on` names; never where it is 0."""
    signs = {"positive": weight > 0, "negative": weight < 0, "both": weight != 0}
    return signs[on]
