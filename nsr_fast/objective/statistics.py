"""What a weight rule reads of a group, and how it writes: conventions of every rule.

    scored      rollouts with a verdict; the others are in no statistic and get the weight 0
    share       correct / scored of a group: how easy its problem is to this policy
    confidence  exp(mean sampler logprob) of a rollout: its length-normalised likelihood, in [0, 1]
A rollout without a token counts in the statistics, but there is nothing to train: its weight is 0.
"""

from collections.abc import Iterable, Sequence
from math import exp, fsum, sqrt

from nsr_fast.types import Group, Rollout


def scored(group: Group) -> list[Rollout]:
    """The rollouts with a verdict."""
    return [rollout for rollout in group.rollouts if rollout.is_correct is not None]


def share_correct(rollouts: Sequence[Rollout]) -> float:
    """Of scored rollouts; 0 where there is none."""
    return sum(bool(r.is_correct) for r in rollouts) / len(rollouts) if rollouts else 0.0


def rewards(rollouts: Sequence[Rollout]) -> list[float]:
    """Of scored rollouts: the graded reward, +1 or -1 where only the verdict is known."""
    return [(1.0 if r.is_correct else -1.0) if r.reward is None else r.reward for r in rollouts]


def confidence(rollout: Rollout) -> float:
    """exp(mean sampler logprob), at most 1; 0 without a token."""
    logprobs = logprobs_of(rollout)
    return min(1.0, exp(mean(logprobs))) if logprobs else 0.0


def logprobs_of(rollout: Rollout) -> tuple[float, ...]:
    """One a token, as it was sampled; ValueError where the sampler did not give them."""
    got, want = len(rollout.sampler_logprob), len(rollout.token_ids)
    if got != want:
        raise ValueError(f"sampler_logprob: expected {want}, one a token, got {got}")
    return rollout.sampler_logprob


def mean(values: Sequence[float]) -> float:
    """0 of nothing."""
    return fsum(values) / len(values) if values else 0.0


def std(values: Sequence[float]) -> float:
    """Unbiased (n - 1); exactly 0 where all values are equal or there are fewer than two."""
    if len(values) < 2 or is_constant(values):
        return 0.0
    center = mean(values)
    return sqrt(fsum((x - center) ** 2 for x in values) / (len(values) - 1))


def is_constant(values: Sequence[float]) -> bool:
    """All equal: what a group tells by comparison is nothing, not the rounding of its mean."""
    return not values or min(values) == max(values)


def centered(values: Sequence[float]) -> list[float]:
    """Minus the mean; exactly 0 where all values are equal."""
    if is_constant(values):
        return [0.0] * len(values)
    center = mean(values)
    return [x - center for x in values]


def clear(groups: Iterable[Group]) -> None:
    """Undo what another rule wrote: every weight and entropy share 0."""
    for group in groups:
        for rollout in group.rollouts:
            rollout.weight = rollout.entropy_share = 0.0


def write(rollouts: Sequence[Rollout], weights: Sequence[float]) -> None:
    """One weight a rollout; 0 where it has no token."""
    for rollout, weight in zip(rollouts, weights, strict=True):
        rollout.weight = weight if rollout.token_ids else 0.0
