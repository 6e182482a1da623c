"""Members of the negative-sample family that stand on GRPO: LENS, RL-ZVP, A3PO. The whole table,
with what its letters mean, is in negatives.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nsr_fast.objective.group_relative import GroupRelative
from nsr_fast.objective.statistics import (
    centered,
    clear,
    confidence,
    logprobs_of,
    scored,
    write,
)
from nsr_fast.objective.weights import Now, Schedule, WeightRule, scheduled
from nsr_fast.types import Group, Rollout


@dataclass(frozen=True, slots=True)
class Lens:
    """LENS: GRPO on rewards in which a wrong rollout costs more the surer the policy was of it.

        r' = 1 for correct, -(1/n) q / (D - q) for wrong        n scored rollouts in the group
        D  = max(n / sum over correct of 1 / q, 2 max q);  2 max q where none is correct
        mixed groups (r' - mean) / (std + 1e-6), all-wrong ones negative_share (r' - mean)
    The penalty lies in [-1/n, 0], so signs are GRPO's in mixed groups.

    negative_share   alpha, the paper's only key
    Trap: an all-wrong group is centred too: its least confident mistakes are raised.
    Source: arXiv 2510.08696, section 5.1 (read in full). Our reading: its importance-sampled D uses
    the length-normalised q as everything else there does.
    """

    negative_share: float = 0.25
    epsilon: float = 1e-6

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        clear(groups)
        for group in groups:
            judged = scored(group)
            values = self.calibrated(judged)
            if any(rollout.is_correct for rollout in judged):
                write(judged, GroupRelative(epsilon=self.epsilon).advantages(values))
            else:
                write(judged, [self.negative_share * x for x in centered(values)])

    def calibrated(self, judged: Sequence[Rollout]) -> list[float]:
        """r' of each scored rollout of one group."""
        sure = [confidence(rollout) for rollout in judged]
        right = [q for rollout, q in zip(judged, sure) if rollout.is_correct]
        bound = 2.0 * max(sure, default=0.0)
        if right and min(right) > 0.0:
            bound = max(bound, len(judged) / sum(1.0 / q for q in right))
        return [
            1.0 if rollout.is_correct else -(q / (bound - q) if q > 0.0 else 0.0) / len(judged)
            for rollout, q in zip(judged, sure)
        ]


@dataclass(frozen=True, slots=True)
class RlZvp:
    """RL-ZVP: GRPO, and groups of one verdict trained by the entropy H of each token.

        all right   +scale H                             weight scale, entropy_share 1
        all wrong   -scale (max H of the rollout - H)    weight -scale, entropy_share 1
    for the preparation "zero_variance", which knows the maximum: uncertain tokens of wrong rollouts
    are spared, so that exploration is not punished.

    entropy_cap   a number > 1 (nats) in place of that maximum: no pass beforehand. All-wrong
                  groups then get weight scale (1 - cap) and entropy_share f = 1 / (1 - cap), which
                  the token rule w (1 - f + f H), held at one sign, turns into -scale (cap - H)
    Source: arXiv 2509.21880, scale 0.1 (a second public implementation, ludic, has the same form).
    entropy_cap is ours.
    """

    scale: float = 0.1
    entropy_cap: float | None = None

    def __post_init__(self) -> None:
        cap = self.entropy_cap
        if cap is not None and not 1.0 < cap < float("inf"):
            raise ValueError(f"entropy_cap: expected None or a number > 1, got {cap!r}")

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        GroupRelative()(groups, now)
        for group in groups:
            judged = scored(group)
            verdicts = {rollout.is_correct for rollout in judged}
            if len(verdicts) == 1:
                weight, share = self._of(is_correct=verdicts.pop())
                write(judged, [weight] * len(judged))
                for rollout in judged:
                    rollout.entropy_share = share if rollout.token_ids else 0.0

    def _of(self, *, is_correct: bool) -> tuple[float, float]:
        """Weight and entropy share in a group of this verdict alone."""
        if is_correct or self.entropy_cap is None:
            return (self.scale if is_correct else -self.scale), 1.0
        below = 1.0 - self.entropy_cap
        return self.scale * below, 1.0 / below


_GRPO = GroupRelative()
_FADING = Schedule(2.0, 1.0)


@dataclass(frozen=True, slots=True)
class A3po:
    """A3PO: the least likely tokens of correct and the most likely of wrong rollouts count more.

        w_t = w scale(s)    for the `share` of tokens with the lowest (correct) or highest (wrong)
                            sampler logprob, at least one; w for the others

    rule    the weights that are reshaped; scale reaches 1 at the end of the run
    Source: arXiv 2512.21625; selection (ranks within a rollout, 0.2, times 2, by verdict) from its
    code, Sample-Polarity-of-RLVR. Its code does not anneal: the linear way to 1 is our form of the
    abstract's "adaptively decays".
    """

    rule: WeightRule = _GRPO
    share: float = 0.2
    scale: float | Schedule = _FADING

    def __post_init__(self) -> None:
        plan = scheduled(self.scale)
        if plan.start < 0 or (plan.end is not None and plan.end < 0):
            raise ValueError(f"scale: expected numbers >= 0, got {self.scale!r}")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share: expected a number in [0, 1], got {self.share!r}")

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        self.rule(groups, now)
        scale = scheduled(self.scale).at(now)
        for group in groups:
            for rollout in scored(group):
                if rollout.is_trained and scale != 1.0:
                    rollout.weight = self._reshaped(rollout, scale)

    def _reshaped(self, rollout: Rollout, scale: float) -> tuple[float, ...]:
        logprobs, weight = logprobs_of(rollout), rollout.weight
        each = weight if isinstance(weight, tuple) else (weight,) * len(logprobs)
        order = sorted(range(len(logprobs)), key=logprobs.__getitem__)
        count = max(1, int(len(logprobs) * self.share))
        chosen = set(order[:count] if rollout.is_correct else order[-count:])
        return tuple(w * scale if t in chosen else w for t, w in enumerate(each))
