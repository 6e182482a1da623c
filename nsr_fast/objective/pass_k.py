"""Weights whose expected gradient is that of Pass@k: what k samples solve together, not one.

n scored rollouts of a group, W of them wrong; C(a, b) the binomial coefficient. k larger than n
counts as n. All are closed forms: no subset is ever drawn.

    PassAtK       Pass@k training: GRPO over the groups of k that n rollouts form
    Pkpo          PKPO: unbiased gradient of max@k, with the paper's baselines
    BestOfGroup   grpo_passk: only the best rollout, by its lead over the second

Sources: arXiv 2508.10751 (code/passk_adv.py), arXiv 2505.15201 (listing 1), arXiv 2503.19595 as
verl's grpo_passk has it. The estimate for evaluation: evaluate/pass_at_k.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, fsum, sqrt
from typing import Literal

from nsr_fast.objective.statistics import clear, rewards, scored, std, write
from nsr_fast.objective.weights import Now
from nsr_fast.types import Group


def _check_k(k: int) -> None:
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k: expected a whole number >= 1, got {k!r}")


@dataclass(frozen=True, slots=True)
class PassAtK:
    """Pass@k training in closed form.

        R = 1 - C(W, k) / C(n, k)        chance that a subset of k has a correct one
        s = sqrt(R (1 - R))
        correct   (1 - R) / (s + epsilon)
        wrong     (1 - R - C(W - 1, k - 1) / C(n - 1, k - 1)) / (s + epsilon)

    A rollout's weight is the mean of (max - R) / s over all subsets of k that contain it, rewards
    0 and 1. With k = 1 that is GRPO with the biased standard deviation. Groups without a correct
    rollout, or with fewer than k wrong ones, get 0: hard problems count more as k grows.
    """

    k: int = 4
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        _check_k(self.k)

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        clear(groups)
        for group in groups:
            judged = scored(group)
            wrong = sum(not r.is_correct for r in judged)
            if judged:
                up, down = self.advantages(len(judged), wrong)
                write(judged, [up if r.is_correct else down for r in judged])

    def advantages(self, count: int, wrong: int) -> tuple[float, float]:
        """Of a correct and of a wrong one among `count` rollouts."""
        k = min(self.k, count)
        fails = comb(wrong, k) / comb(count, k)  # 1 - R
        scale = sqrt(fails * (1.0 - fails)) + self.epsilon
        others = comb(wrong - 1, k - 1) / comb(count - 1, k - 1) if wrong else 0.0
        return fails / scale, (fails - others) / scale


@dataclass(frozen=True, slots=True)
class Pkpo:
    """PKPO: n times the paper's s_i, so that the mean over rollouts is its sum. Unbiased: the
    expected mean of w_i grad log p_i is the gradient of max@k (Pass@k where rewards are 0 and 1).

        none            n / C(n, k) sum over subsets I of k with i in I of max_I r      (eq. 19)
        loo             minus n / (n - 1) sum over j != i of s_j of the group without i     (29)
        loo_minus_one   n / C(n, k) sum over I with i in I of max_I r - max of I less i     (33)

    Rewards may be graded; +1 and -1 give twice the weights of 1 and 0. loo_minus_one has the lowest
    variance, is never negative for k > 1, and gives 0 to a rollout that is above no other: with
    verdicts alone only correct ones are trained, by n C(W, k - 1) / C(n, k) times the gap between
    the two rewards. With k = 1 nothing is left of a subset less i: that is RLOO.
    loo needs n > k and is loo_minus_one in smaller groups.
    """

    k: int = 4
    baseline: Literal["none", "loo", "loo_minus_one"] = "loo_minus_one"

    def __post_init__(self) -> None:
        _check_k(self.k)
        if self.baseline not in ("none", "loo", "loo_minus_one"):
            want = "none, loo or loo_minus_one"
            raise ValueError(f"baseline: expected {want}, got {self.baseline!r}")

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        clear(groups)
        for group in groups:
            judged = scored(group)
            write(judged, self.advantages(rewards(judged)))

    def advantages(self, values: Sequence[float]) -> list[float]:
        """Of one group's rewards; a group of one gets 0, or its reward where baseline is none."""
        count = len(values)
        k = min(self.k, count)
        if self.baseline == "none":
            return [count * x for x in _share_of_max(values, k)] if values else []
        if count < 2:
            return [0.0] * count
        if self.baseline == "loo" and count > k:
            own, total = _share_of_max(values, k), count / (count - 1)
            others = [_share_of_max([*values[:i], *values[i + 1 :]], k) for i in range(count)]
            return [count * x - total * fsum(rest) for x, rest in zip(own, others)]
        if k == 1:
            scale = count / (count - 1)
            return [scale * (x - fsum(values) / count) for x in values]
        return [count * x for x in _gain_over_others(values, k)]


def _share_of_max(values: Sequence[float], k: int) -> list[float]:
    """For each i: 1 / C(n, k) times the sum of max_I values over subsets I of k that contain i."""
    order = sorted(range(len(values)), key=values.__getitem__)
    subsets = comb(len(values), k)
    found = [0.0] * len(values)
    for rank, i in enumerate(order):  # subsets in which i is the last in this order, or another is
        terms = [comb(rank, k - 1) * values[i]]
        if k > 1:
            higher = range(rank + 1, len(values))
            terms += [comb(top - 1, k - 2) * values[order[top]] for top in higher]
        found[i] = fsum(terms) / subsets
    return found


def _gain_over_others(values: Sequence[float], k: int) -> list[float]:
    """For each i: 1 / C(n, k) times the sum over subsets of max with i minus max without; k > 1."""
    order = sorted(range(len(values)), key=values.__getitem__)
    subsets = comb(len(values), k)
    found = [0.0] * len(values)
    for rank, i in enumerate(order):
        gains = (comb(r, k - 2) * (values[i] - values[order[r]]) for r in range(rank))
        found[i] = fsum(gains) / subsets
    return found


@dataclass(frozen=True, slots=True)
class BestOfGroup:
    """grpo_passk: the best rollout gets r_best - r_second, every other 0; a tie gives 0 to all.

    std   divide by the group's unbiased standard deviation + 1e-6, as verl does by default
    """

    std: bool = True
    epsilon: float = 1e-6

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        clear(groups)
        for group in groups:
            judged = scored(group)
            values = rewards(judged)
            if len(values) < 2:
                continue
            best, second = sorted(values, reverse=True)[:2]
            lead = (best - second) / ((std(values) + self.epsilon) if self.std else 1.0)
            write(judged, [lead if r == best else 0.0 for r in values])
