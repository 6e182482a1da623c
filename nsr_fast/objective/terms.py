"""Token-local losses on [C] vectors: the one place where their mathematics lives.

A surrogate is any callable TokenRows -> TokenTerms (nsr_fast/kernels/head.py); it sees one chunk of
active rows after their logits are complete and returns each row's loss, c = dloss/dlogprob and,
when not zero, e = dloss/dentropy. With w = token_weight and r = exp(logprob - old_logprob):

    None              -w logprob                          REINFORCE, PSR, NSR, W-REINFORCE
    PolicyGradient()  the same, open to the corrections below
    PpoClip()         -min(w r, w clip(r, 1 - epsilon, 1 + epsilon_high)); a clipped row gets c = 0;
                      dual_clip bounds the loss of w < 0 by -w dual_clip. Reads old_logprob
    Cispo()           -w clip(r, ...) logprob, the clipped ratio held constant. Reads old_logprob
    and in each       sampler_cap: times min(exp(policy - sampler), sampler_cap), held constant;
                      policy = old_logprob, or logprob without one. Reads sampler_logprob
                      kl="k1"|"k2"|"k3", kl_coef: plus kl_coef times it. Reads ref_logprob

    linear_policy_loss(hidden, weight, target, w, old_logprob=old,
                       surrogate=PpoClip(epsilon=0.2, epsilon_high=0.28))

kl_coef, and entropy_coef of linear_policy_loss, count per active row and are not scaled by w:
divide them by the batch's denominator as w is. Rows of weight 0 are dropped before any of this.
Sources: PPO 1707.06347, dual clip 1912.09729, clip-higher 2503.14476, CISPO 2506.13585, KL
estimators joschu.net/blog/kl-approx.html.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nsr_fast.kernels.head import TokenRows, TokenTerms


@dataclass(frozen=True, kw_only=True)
class Surrogate(ABC):
    """Base of the built-in ones: the policy term of a subclass, sampler correction, KL penalty."""

    sampler_cap: float | None = None
    kl: str = "k3"
    kl_coef: float = 0.0

    needs_old: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.kl not in ("k1", "k2", "k3"):
            raise ValueError(f"kl: expected 'k1', 'k2' or 'k3', got {self.kl!r}")
        for name in ("epsilon", "sampler_cap", "kl_coef"):
            value = getattr(self, name, None)
            if value is not None and not 0.0 <= value < float("inf"):
                raise ValueError(f"{name}: expected a number >= 0, got {value!r}")

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the side inputs this surrogate reads."""
        reads = {
            "old_logprob": self.needs_old,
            "sampler_logprob": self.sampler_cap is not None,
            "ref_logprob": self.kl_coef != 0.0,
        }
        return tuple(name for name, is_read in reads.items() if is_read)

    @abstractmethod
    def policy_term(self, rows: TokenRows) -> TokenTerms:
        """The loss of each token and its slope c, before correction and penalty."""

    def __call__(self, rows: TokenRows) -> TokenTerms:
        term = self.policy_term(rows)
        loss, c = term.loss, term.c
        if self.sampler_cap is not None:
            policy = rows.logprob if rows.old_logprob is None else rows.old_logprob
            trust = (policy - rows.sampler_logprob).exp().clamp(max=self.sampler_cap)
            loss, c = loss * trust, c * trust
        if self.kl_coef != 0.0:
            gap = rows.logprob - rows.ref_logprob
            value, slope = _KL[self.kl](gap)
            loss, c = loss + self.kl_coef * value, c + self.kl_coef * slope
        return TokenTerms(loss, c, term.e, term.is_clipped)


@dataclass(frozen=True)
class PolicyGradient(Surrogate):
    """-w logprob."""

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        return TokenTerms(-rows.token_weight * rows.logprob, -rows.token_weight)


@dataclass(frozen=True)
class PpoClip(Surrogate):
    """-min(w r, w clip(r, 1 - epsilon, 1 + epsilon_high)); dual_clip > 1 caps r where w < 0."""

    epsilon: float = 0.2
    epsilon_high: float | None = None
    dual_clip: float | None = None

    needs_old: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dual_clip is not None and not self.dual_clip > 1.0:
            raise ValueError(f"dual_clip: expected a number > 1, got {self.dual_clip!r}")

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        w = rows.token_weight
        ratio = (rows.logprob - rows.old_logprob).exp()
        low, high = _bounds(self.epsilon, self.epsilon_high)
        silent_when_raised = (w > 0) & (ratio > high)
        silent_when_lowered = (w < 0) & (ratio < low)
        is_clipped = silent_when_raised | silent_when_lowered
        bounded = torch.where(is_clipped, ratio.clamp(low, high), ratio)
        if self.dual_clip is not None:
            is_far = (w < 0) & (ratio > self.dual_clip)
            bounded = torch.where(is_far, self.dual_clip, bounded)
            is_clipped = is_clipped | is_far
        c = torch.where(is_clipped, 0.0, -w * bounded)
        return TokenTerms(-w * bounded, c, is_clipped=is_clipped)


@dataclass(frozen=True)
class Cispo(Surrogate):
    """-w clip(r, 1 - epsilon, 1 + epsilon_high) logprob: the ratio is a constant weight."""

    epsilon: float = 0.2
    epsilon_high: float | None = None

    needs_old: ClassVar[bool] = True

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        ratio = (rows.logprob - rows.old_logprob).exp()
        low, high = _bounds(self.epsilon, self.epsilon_high)
        c = -rows.token_weight * ratio.clamp(low, high)
        is_clipped = (ratio < low) | (ratio > high)
        return TokenTerms(c * rows.logprob, c, is_clipped=is_clipped)


def _bounds(epsilon: float, epsilon_high: float | None) -> tuple[float, float]:
    return 1.0 - epsilon, 1.0 + (epsilon if epsilon_high is None else epsilon_high)


def _k1(gap: Tensor) -> tuple[Tensor, Tensor]:
    return gap, torch.ones_like(gap)


def _k2(gap: Tensor) -> tuple[Tensor, Tensor]:
    return 0.5 * gap * gap, gap


def _k3(gap: Tensor) -> tuple[Tensor, Tensor]:
    return torch.expm1(-gap) + gap, -torch.expm1(-gap)


_KL = {"k1": _k1, "k2": _k2, "k3": _k3}
