"""Weights by sign: PSR, NSR, W-REINFORCE, REINFORCE, their schedules, and what a weight rule is.

A rule is called once a round, before anything is packed, and writes Rollout.weight of every rollout
(and entropy_share where it uses it): a float for all tokens, or a tuple with one for each; 0 where
the rollout is unscored or has no token. A positive weight raises the tokens' probability:
    loss = -(1/N) sum_t w_t logprob_t        with N the denominator of the minibatch

Strictly on-policy the expected score is zero, so the expected sequence-sum gradients of PSR, NSR,
REINFORCE and W-REINFORCE(l) are the same vector times 1, 1, 2 and 1 + l: what differs is noise,
clipping, updates a round, and which rows are dropped. tests/objective/test_identity.py proves it.
Source: arXiv 2506.01347, equations 1-4 and 9.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Literal

from nsr_fast.objective.statistics import clear, rewards, scored, write
from nsr_fast.types import Group


@dataclass(frozen=True, slots=True)
class Now:
    """Which round the weights are for, counted from 1."""

    round: int = 1
    max_rounds: int = 1

    @property
    def share(self) -> float:
        """0 in the first round, 1 in the last; 0 where there is only one."""
        return min(1.0, max(0.0, (self.round - 1) / max(1, self.max_rounds - 1)))


WeightRule = Callable[[Sequence[Group], Now], None]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A number over the run, s = Now.share.

    constant   start
    linear     start + (end - start) s
    cosine     end + (start - end) (1 + cos(pi s)) / 2       flat at both ends
    """

    start: float
    end: float | None = None  # None: start
    shape: Literal["constant", "linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        if self.shape not in ("constant", "linear", "cosine"):
            raise ValueError(f"shape: expected constant, linear or cosine, got {self.shape!r}")
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is not None and not isfinite(value):
                raise ValueError(f"{name}: expected a finite number, got {value!r}")

    def at(self, now: Now) -> float:
        """The number in this round."""
        if self.end is None or self.shape == "constant":
            return self.start
        passed = now.share if self.shape == "linear" else (1.0 - cos(pi * now.share)) / 2.0
        return self.start + (self.end - self.start) * passed


def scheduled(value: float | Schedule) -> Schedule:
    """A number is a constant schedule."""
    return value if isinstance(value, Schedule) else Schedule(value)


@dataclass(frozen=True, slots=True)
class SignWeights:
    """One weight for correct and one for wrong rollouts; each a number or a Schedule.

        name              correct   wrong
        PSR               +1        0 (dropped)
        NSR               0         -1
        W-REINFORCE(l)    +l        -1       l = 0.1 in the paper
        REINFORCE         +1        -1

    correct   >= 0
    wrong     <= 0
    Traps: never whitened or centred in a group, which would make a constant weight 0. All-wrong
    groups do contribute under NSR, all-right ones under PSR.
    Raises ValueError on a sign or a value that is not finite.
    Source: arXiv 2506.01347, equations 1-4 and 9; its code drops the rows of weight 0 too.
    """

    correct: float | Schedule
    wrong: float | Schedule

    def __post_init__(self) -> None:
        for name, sign in (("correct", 1.0), ("wrong", -1.0)):
            plan = scheduled(getattr(self, name))
            if any(x is not None and sign * x < 0 for x in (plan.start, plan.end)):
                want = ">= 0" if sign > 0 else "<= 0"
                raise ValueError(f"{name}: expected a number {want}, got {getattr(self, name)!r}")

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        correct, wrong = scheduled(self.correct).at(now), scheduled(self.wrong).at(now)
        for group in groups:
            weigh_by_sign(group, correct=correct, wrong=wrong)


@dataclass(frozen=True, slots=True)
class Switch:
    """One rule for the first part of the run, another for the rest.

    nsr_warmup() is NSR and then W-REINFORCE: the paper's appendix D sees long NSR degrade and
    W-REINFORCE not, and proposes NSR as a warm-up; the length of the warm-up is ours.

    first, then   rules
    part          in [0, 1]: rounds with Now.share < part are the first's
    """

    first: WeightRule
    then: WeightRule
    part: float = 0.25

    def __post_init__(self) -> None:
        if not 0.0 <= self.part <= 1.0:
            raise ValueError(f"part: expected a number in [0, 1], got {self.part!r}")

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        (self.first if now.share < self.part else self.then)(groups, now)


def psr() -> SignWeights:
    """Positive sample reinforcement: correct rollouts only."""
    return SignWeights(1.0, 0.0)


def nsr() -> SignWeights:
    """Negative sample reinforcement: wrong rollouts only."""
    return SignWeights(0.0, -1.0)


def reinforce() -> SignWeights:
    """Both signs at full weight."""
    return SignWeights(1.0, -1.0)


def w_reinforce(positive_weight: float | Schedule = 0.1) -> SignWeights:
    """Weighted REINFORCE; 0 is NSR, 1 is REINFORCE. A Schedule moves lambda over the run."""
    return SignWeights(positive_weight, -1.0)


def nsr_warmup(positive_weight: float | Schedule = 0.1, part: float = 0.25) -> Switch:
    """NSR for the first `part` of the run, then W-REINFORCE."""
    return Switch(nsr(), w_reinforce(positive_weight), part)


@dataclass(frozen=True, slots=True)
class Returns:
    """The reward itself, for what a critic turns into an advantage: A_t = GAE(reward, V).

    With gamma = lambda = 1 that is reward - V_t. Without a critic: REINFORCE on graded rewards.
    Trap: a reward of exactly 0 reads as "not trained" everywhere else; a critic has to see it too.
    Source: PPO 1707.06347, GAE 1506.02438; arXiv 2506.01347's baseline has gamma = lambda = 1.
    """

    def __call__(self, groups: Sequence[Group], now: Now) -> None:
        clear(groups)
        for group in groups:
            write(scored(group), rewards(scored(group)))


def weigh_by_sign(group: Group, *, correct: float, wrong: float) -> None:
    """Write each weight: `correct`, `wrong`, or 0 where a rollout is unscored or has no token."""
    clear([group])
    judged = scored(group)
    write(judged, [correct if rollout.is_correct else wrong for rollout in judged])
