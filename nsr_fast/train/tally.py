"""What the steps of an update leave, and what decides whether they are taken."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nsr_fast.kernels.policy_loss import PolicyLoss
from nsr_fast.types import Rollout


@dataclass(frozen=True, slots=True)
class Drift:
    """|policy - sampler| logprob over the round's trained tokens, before its first step.

    largest_logit   |lse| * temperature, the largest of the first minibatch: no logit is above lse
    """

    mean: float
    max: float
    largest_logit: float


class StepGuard:
    """Decides whether a step is taken; this one takes every step of finite numbers."""

    def allows(self, drift: Drift) -> bool:
        """Asked before the first step; False: none of the round is taken. May raise GuardStop."""
        return True

    def taken(self) -> None:
        """After every step."""

    def non_finite(self, step: int, what: str, value: float) -> Exception | None:
        """Step `step`, from 1, was not taken: its `what` is `value`. Returns what ends the run."""
        return None


@dataclass(frozen=True, slots=True)
class UpdateMetrics:
    """Means over the tokens of the steps taken; None: over nothing."""

    loss: float | None
    grad_norm: float | None  # mean over the optimizer steps, before clipping
    entropy_trained: float | None
    drift_mean: float | None
    drift_max: float | None
    clip_fraction: float | None  # None: on-policy, nothing can be clipped
    trained_tokens: int
    steps: int
    failure: Exception | None = None  # ends the run after this round
    skipped: dict[int, list[Rollout]] = field(default_factory=dict)  # by step, from 1: not finite


@dataclass(slots=True)
class Tally:
    """What the steps of an update leave."""

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    entropies: list[Tensor] = field(default_factory=list)
    clipped: list[Tensor] = field(default_factory=list)
    drift: Drift | None = None
    failure: Exception | None = None
    skipped: dict[int, list[Rollout]] = field(default_factory=dict)

    def add(self, loss: float, grad_norm: float, passes: Sequence[PolicyLoss]) -> None:
        self.losses.append(loss)
        self.grad_norms.append(grad_norm)
        self.entropies += [result.entropy for result in passes]
        self.clipped += [result.stats.is_clipped for result in passes]

    def metrics(self, *, is_clipping: bool) -> UpdateMetrics:
        steps = len(self.losses)
        return UpdateMetrics(
            loss=sum(self.losses) / steps if steps else None,
            grad_norm=sum(self.grad_norms) / steps if steps else None,
            entropy_trained=float(torch.cat(self.entropies).mean()) if steps else None,
            drift_mean=self.drift and self.drift.mean,
            drift_max=self.drift and self.drift.max,
            clip_fraction=float(torch.cat(self.clipped).mean()) if steps and is_clipping else None,
            trained_tokens=sum(entropy.numel() for entropy in self.entropies),
            steps=steps,
            failure=self.failure,
            skipped=self.skipped,
        )
