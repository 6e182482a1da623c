"""Weights from rewards compared within a group or over the round: GRPO and its relatives.

r is the graded reward of a scored rollout; mean and std are over its group's scored rollouts. The
token term (clipping, ratios) and the denominator are chosen apart: a preset names all three.

    GRPO          (r - mean) / (std + 1e-6)                          GroupRelative()
    Dr.GRPO       r - mean                                           GroupRelative(std=False)
    DAPO          GRPO, r with the overlong penalty                  GroupRelative(overlong=...)
    NGRPO         GRPO, mean and std with one more sample of 1       GroupRelative(top_reward=1.0)
    RLOO          r - mean of the others                             LeaveOneOut()
    REINFORCE++   (r - mean) / std over the round's tokens           BatchNormalized()
      -baseline   the same of r - mean of the group                  BatchNormalized(baseline=True)
    MaxRL         (c - share) / share, c in {0, 1}                   MaxRL()
    AsymRE        r - (mean + offset), offset < 0                    AsymRE()
    TOPR          +1, -1 by sign, no baseline                        topr()

A group of equal rewards gets exactly 0 wherever only comparison counts: everywhere but in NGRPO
below the top reward, AsymRE, REINFORCE++ without baseline, and TOPR. So does a group of one, which
the reference code gives its raw reward instead. Nothing here is ever NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, sqrt

from nsr_fast.objective.statistics import (
    centered,
    clear,
    is_constant,
    mean,
    rewards,
    scored,
    share_correct,
    std,
    write,
)
from nsr_fast.objective.weights import Now, SignWeights
from nsr_fast.types import Group


@dataclass(frozen=True, slots=True)
class SoftOverlong:
    """DAPO's soft overlong penalty, added to the reward before any statistic.

        0                                       length <= max_length - buffer
        (max_length - buffer - length) / buffer     in between
        -1                                      length > max_length       all times `factor`

    max_length   tokens, that of the penalty; a run's max_completion_length or less
    buffer       tokens over which the penalty grows, 1..max_length
    Source: arXiv 2503.14476, equation 13 (16,384 + 4,096 there).
    """

    max_length: int
    buffer: int
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.buffer <= self.max_length:
            raise ValueError(f"buffer: expected 1..max_length={self.max_length}, got {self.buffer}")

    def penalty(self, length: int) -> float:
        """In [-factor, 0], of a completion of `length` tokens."""
        over = length - (self.max_length - self.buffer)
        return -self.factor * min(1.0, max(0, over) / self.buffer)


@dataclass(frozen=True, slots=True)
class GroupRelative:
    """(r - mean) / (std + epsilon): GRPO; Dr.GRPO, DAPO and NGRPO by their keys.

    std         divide by the unbiased standard deviation (GRPO); False: Dr.GRPO. Dividing weighs
                nearly solved and nearly hopeless problems up
    epsilon     1e-6 as in the reference code
    top_reward  NGRPO: mean and std as if one more rollout had this reward. All-wrong groups get
                negative weights (-1/3 for 8 rollouts); all-right ones 0 if that is their reward
    overlong    DAPO: penalty on r by length, before mean and std
    Sources: GRPO 2402.03300 (core_algos.py of the paper's code), Dr.GRPO 2503.20783, DAPO
    2503.14476, NGRPO 2509.18851 (compute_ngrpo_outcome_advantage of its code).
    """

    std: bool = True
    epsilon: float = 1e-6
    top_reward: float | None = None
    overlong: SoftOverlong | None = None

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        clear(groups)
        for group in groups:
            judged = scored(group)
            values = rewards(judged)
            if self.overlong is not None:
                lengths = [len(rollout.token_ids) for rollout in judged]
                values = [r + self.overlong.penalty(n) for r, n in zip(values, lengths)]
            write(judged, self.advantages(values))

    def advantages(self, values: Sequence[float]) -> list[float]:
        """Of one group's rewards."""
        virtual = [] if self.top_reward is None else [self.top_reward]
        all_values = [*values, *virtual]
        above = centered(all_values)[: len(values)]
        scale = std(all_values) + self.epsilon if self.std else 1.0
        return [x / scale for x in above]


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """RLOO: r_i - mean of the other rollouts' r = n / (n - 1) (r_i - mean). Unbiased.

    Source: arXiv 2402.14740, section 2.2.
    """

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        clear(groups)
        for group in groups:
            judged = scored(group)
            count = len(judged)
            scale = count / (count - 1) if count > 1 else 0.0
            write(judged, [scale * x for x in centered(rewards(judged))])


@dataclass(frozen=True, slots=True)
class BatchNormalized:
    """REINFORCE++: rewards whitened over the whole round, not over a group.

        w = (x - m) / sqrt(v + 1e-8)     m, v (unbiased) over the round, a rollout counting once for
                                         each of its tokens; x = r, or r - group mean (baseline)

    baseline   REINFORCE++-baseline; False: the plain one, for one rollout a prompt too
    Trap: long rollouts move m, so a correct rollout of a round in which nearly all are correct gets
    nearly 0; rounds of one verdict only get 0 everywhere.
    Sources: arXiv 2501.03262; masked_whiten of verl (tokens, unbiased, 1e-8) for the details.
    """

    baseline: bool = False
    epsilon: float = 1e-8

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        clear(groups)
        found = []
        for group in groups:
            judged = scored(group)
            values = rewards(judged)
            found.extend(zip(judged, centered(values) if self.baseline else values))
        found = [(rollout, x) for rollout, x in found if rollout.token_ids]
        values, counts = [x for _, x in found], [len(rollout.token_ids) for rollout, _ in found]
        write([rollout for rollout, _ in found], self._whitened(values, counts))

    def _whitened(self, values: Sequence[float], counts: Sequence[int]) -> list[float]:
        total = sum(counts)
        if is_constant(values):
            return [0.0] * len(values)
        center = fsum(n * x for x, n in zip(values, counts)) / total
        spread = fsum(n * (x - center) ** 2 for x, n in zip(values, counts)) / (total - 1)
        return [(x - center) / sqrt(spread + self.epsilon) for x in values]


@dataclass(frozen=True, slots=True)
class MaxRL:
    """(c - share) / share with c = 1 for correct, 0 for wrong; all-wrong groups get 0.

    Correct: 1 / share - 1, wrong: -1. The expected gradient of n rollouts is that of
    sum_{k=1}^{n-1} pass@k / k, a truncation of log share: maximum likelihood instead of accuracy.
    Source: arXiv 2602.02710 (compute_maxrl_outcome_advantage of its code adds 1e-6 to the divisor).
    """

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        clear(groups)
        for group in groups:
            judged = scored(group)
            share = share_correct(judged)
            if share > 0.0:
                write(judged, [(bool(r.is_correct) - share) / share for r in judged])


@dataclass(frozen=True, slots=True)
class AsymRE:
    """r - (mean + offset): below the mean, so that off-policy data pushes up more than down.

    offset   <= 0; at 0 or above the policy's support collapses off-policy
    Trap: in a group of equal rewards every weight is -offset, in an all-wrong one too: the whole
    group is raised a little. All-wrong groups want a filter beside it.
    Source: arXiv 2506.20520, A = r - V with V = mean + dV; -0.1 is the paper's conservative value.
    """

    offset: float = -0.1

    def __post_init__(self) -> None:
        if not -float("inf") < self.offset <= 0:
            raise ValueError(f"offset: expected a finite number <= 0, got {self.offset!r}")

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        clear(groups)
        for group in groups:
            judged = scored(group)
            values = rewards(judged)
            write(judged, [r - (mean(values) + self.offset) for r in values])


def topr(baseline: float = 0.0) -> SignWeights:
    """TOPR's weights: R - baseline with R = +1 or -1, no group statistic.

    The other half is the token term "topr": a rollout of negative weight times its sequence ratio
    clip(exp(sum_t logprob - old), 0, 1), held constant; one of positive weight times 1.

    baseline   in [-1, 1]: c of the paper; -1 drops the wrong rollouts
    Source: arXiv 2503.14286, equations 7-8 (a- = 0, the other limits 1), section 4.3 for c.
    """
    if not -1.0 <= baseline <= 1.0:
        raise ValueError(f"baseline: expected a number in [-1, 1], got {baseline!r}")
    return SignWeights(1.0 - baseline, -1.0 - baseline)
