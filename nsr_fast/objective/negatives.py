"""The negative-sample family as one table: how much a correct and a wrong rollout weigh, over time
(s = Now.share), confidence (q = exp(mean sampler logprob) of the rollout), difficulty (p = share
correct of its group) and entropy (H of the token, through Rollout.entropy_share).

    name     correct rollout (+)           wrong rollout (-)                axes
    a_nsr    l(s), 0.1                     m(s), 1 to 0.3                   time
    cw_nsr   0                             q                                confidence
    fade     (1 - p)^a                     (1 - p)^(a-1) p / d              difficulty, round's p, H
    lens     GRPO of calibrated rewards    GRPO of -q / (D - q) / n         confidence
    rl_zvp   GRPO; all right: 0.1 H        GRPO; all wrong: 0.1 (max H - H) difficulty, entropy
    a3po     GRPO; rare tokens x 2 to 1    GRPO; likely tokens x 2 to 1     time, token confidence
    stapo    GRPO; rare, sure tokens 0     GRPO; the same as an option      token confidence, H

Each docstring says what is the paper's and what is ours. What needs the policy's own probability or
entropy of a token is a token rule or a preparation beside the surrogate; presets.py names it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from nsr_fast.objective.group_relative import GroupRelative
from nsr_fast.objective.negative_groups import A3po, Lens, RlZvp
from nsr_fast.objective.statistics import (
    clear,
    confidence,
    logprobs_of,
    mean,
    scored,
    share_correct,
    write,
)
from nsr_fast.objective.weights import Now, Schedule, WeightRule, scheduled
from nsr_fast.types import Group, Rollout


@dataclass(frozen=True, slots=True)
class Mass:
    """How much one sign weighs: time(s) q^confidence (1 - q)^surprise p^easy (1 - p)^hard.

    time         a number or a Schedule
    confidence, surprise, easy, hard   exponents >= 0; 0 leaves the factor out
    With hard = 1 for correct and easy = 1 for wrong rollouts it is GRPO without the deviation.
    """

    time: float | Schedule = 1.0
    confidence: float = 0.0
    surprise: float = 0.0
    easy: float = 0.0
    hard: float = 0.0

    def __post_init__(self) -> None:
        for name in ("confidence", "surprise", "easy", "hard"):
            value = getattr(self, name)
            if not 0.0 <= value < float("inf"):
                raise ValueError(f"{name}: expected an exponent >= 0, got {value!r}")
        plan = scheduled(self.time)
        if plan.start < 0 or (plan.end is not None and plan.end < 0):
            raise ValueError(f"time: expected numbers >= 0, got {self.time!r}")

    def of(self, rollout: Rollout, share: float, now: Now) -> float:
        """Of this rollout in a group of which `share` is correct."""
        value = scheduled(self.time).at(now) * share**self.easy * (1.0 - share) ** self.hard
        if self.confidence or self.surprise:
            q = confidence(rollout)
            value *= q**self.confidence * (1.0 - q) ** self.surprise
        return value


@dataclass(frozen=True, slots=True)
class SignMasses:
    """Plus one Mass for correct, minus another for wrong rollouts."""

    correct: Mass
    wrong: Mass

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        clear(groups)
        for group in groups:
            judged = scored(group)
            share = share_correct(judged)
            write(judged, [self._weight(rollout, share, now) for rollout in judged])

    def _weight(self, rollout: Rollout, share: float, now: Now) -> float:
        if rollout.is_correct:
            return self.correct.of(rollout, share, now)
        return -self.wrong.of(rollout, share, now)


_MILDER = Schedule(1.0, 0.3)


def a_nsr(correct: float | Schedule = 0.1, wrong: float | Schedule = _MILDER) -> SignMasses:
    """A-NSR: both weights are functions of time; mistakes are pushed hard early and mildly later.

    Source: arXiv 2605.07137 (abstract and summaries: "time-dependent scheduling functions", strong
    correction first). Form chosen by us: linear, its ends, and lambda = 0.1 of W-REINFORCE.
    """
    return SignMasses(Mass(correct), Mass(wrong))


def cw_nsr(
    correct: float | Schedule = 0.0, power: float = 1.0, surprise: float = 0.0
) -> SignMasses:
    """CW-NSR: a wrong rollout weighs q^power, its normalised likelihood: confident mistakes most.

    correct    weight of correct ones; 0: NSR
    surprise   the other sign: times (1 - q)^surprise, so that unlikely successes weigh most
    Source: arXiv 2605.07137 (abstract: penalty by "normalized sequence likelihood"). Form chosen by
    us: q itself, unscaled, so the mean weight is below 1; `surprise` is ours.
    """
    return SignMasses(Mass(correct, surprise=surprise), Mass(1.0, confidence=power))


@dataclass(frozen=True, slots=True)
class Fade:
    """FADE: GRPO's two gradient masses moved by how well and how surely the round was solved.

        correct   (1 - p)^a            wrong   -(1 - p)^(a - 1) p / d
        a = clip(3 (1 - P) / (2 P), 1, max_power)     P = share correct of the whole round
        d = clip(1 + H - entropy_target, 0.3, 1)      H = -mean sampler logprob of the round
    Hard problems first; below the entropy target wrong rollouts weigh up to 1 / 0.3 of GRPO's.

    entropy_target   nats; the paper uses 1.0 and 1.3 and finds half of the initial entropy best.
                     None: d = 1
    Source: arXiv 2607.01490, section 8 and algorithm as a public reading has them. Ours: P and H of
    this round alone (the paper's averages forget 98 % a step), H estimated from the samples (exact
    in the mean at temperature 1 without truncation), p of each group by verdict.
    """

    entropy_target: float | None = 1.0
    max_power: float = 3.0

    def __post_init__(self) -> None:
        if not 1.0 <= self.max_power < float("inf"):
            raise ValueError(f"max_power: expected a number >= 1, got {self.max_power!r}")

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        self.masses(groups)(groups, now)

    def masses(self, groups: Sequence[Group]) -> SignMasses:
        """The two masses for a round with these rollouts."""
        judged = [rollout for group in groups for rollout in scored(group)]
        share = share_correct(judged)
        power = self.max_power
        if share > 0.0:
            power = min(max(1.5 * (1.0 - share) / share, 1.0), self.max_power)
        factor = 1.0
        if self.entropy_target is not None:
            entropy = -mean([x for rollout in judged for x in logprobs_of(rollout)])
            factor = min(max(1.0 + entropy - self.entropy_target, 0.3), 1.0)
        wrong = Mass(1.0 / factor, easy=1.0, hard=power - 1.0)
        return SignMasses(Mass(hard=power), wrong)


def stapo() -> GroupRelative:
    """STAPO: GRPO's weights; the rest is a token rule and a denominator.

    A token is silenced where its weight is positive, its probability below 0.002 and its entropy
    low; N counts the tokens that are left. On both signs (ours, untested in the paper) whatever the
    sign of its weight. The preparation "spurious_tokens" does it.
    Source: arXiv 2602.15620. Its entropy bound is a quantile of the minibatch; a public reading
    finds it as 20 % and as 80 % in the text: the lowest 20 % is what fits "low entropy".
    """
    return GroupRelative()


FAMILY: Mapping[str, Callable[[], WeightRule]] = MappingProxyType(
    {
        "a_nsr": a_nsr,
        "cw_nsr": cw_nsr,
        "fade": Fade,
        "lens": Lens,
        "rl_zvp": RlZvp,
        "a3po": A3po,
        "stapo": stapo,
    }
)
