"""What the token-local losses share: the contract, factors of the weight, correction, penalties.

A surrogate is a callable TokenRows -> TokenTerms (nsr_fast/kernels/tokens.py) on [C] vectors. With
policy term f of the subclass, factor and scale of the rows (1 when not given):

    w     = token_weight * factor * prod of rule(rows) over `rules`          held constant
    loss  = f(w, logprob, ...) * min(policy / sampler, sampler_cap)          the cap held constant
            + scale * (kl_coef * KL(logprob - ref_logprob) - entropy_coef * entropy)
    c     = dloss/dlogprob, e = dloss/dentropy

kl_coef and entropy_coef count per active row and are not scaled by w: pass `scale` (what a token
counts in the batch's mean, nsr_fast/objective/denominator.py), or divide them by the denominator as
w is. Rows of weight 0 are dropped before any of this, and their KL and entropy with them; a row
that a rule or `factor` zeroes keeps both.

Log ratios are held within [-20, 20], as in verl and SkyRL: beyond, a ratio is the constant e^20 or
e^-20, its slope 0. Nothing overflows for any finite log ratio.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from nsr_fast.kernels.tokens import SIDES, TokenRows, TokenTerms

LOG_RATIO_BOUND = 20.0


@runtime_checkable
class TokenRule(Protocol):
    """A factor [C] of the weight from the token's own numbers, held constant, never negative."""

    @property
    def needs(self) -> Iterable[str]:
        """Names of the side inputs it reads."""

    def __call__(self, rows: TokenRows) -> Tensor:
        """[C] in the dtype of rows.token_weight."""


@dataclass(frozen=True, kw_only=True)
class Surrogate(ABC):
    """Base of the built-in ones: factors of the weight, sampler correction, KL, entropy bonus."""

    sampler_cap: float | None = None
    kl: str = "k3"
    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    rules: tuple[TokenRule, ...] = ()

    needs_old: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.kl not in _KL:
            raise ValueError(f"kl: expected 'k1', 'k2' or 'k3', got {self.kl!r}")
        check_numbers(self, "epsilon", "epsilon_high", "sampler_cap", "kl_coef", "entropy_coef")
        for rule in self.rules:
            if isinstance(rule, type) or not isinstance(rule, TokenRule):
                raise ValueError(f"rules: expected token rules, got {rule!r}")

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the side inputs this surrogate reads."""
        reads = self.reads() | {name for rule in self.rules for name in rule.needs}
        if self.sampler_cap is not None:
            reads |= {"sampler_logprob"}
        if self.kl_coef != 0.0:
            reads |= {"ref_logprob"}
        return tuple(name for name in SIDES if name in reads)

    def reads(self) -> set[str]:
        """What the policy term needs."""
        return {"old_logprob"} if self.needs_old else set()

    @abstractmethod
    def policy_term(self, rows: TokenRows) -> TokenTerms:
        """The loss of each token and its slope c, before correction and penalty."""

    def __call__(self, rows: TokenRows) -> TokenTerms:
        rows = self._weighed(rows)
        term = self.policy_term(rows)
        loss, c, e = term.loss, term.c, term.e
        if self.sampler_cap is not None:
            policy = rows.logprob if rows.old_logprob is None else rows.old_logprob
            trust = (policy - rows.sampler_logprob).exp().clamp(max=self.sampler_cap)
            loss, c = loss * trust, c * trust
            e = None if e is None else e * trust
        if self.kl_coef != 0.0:
            gap = rows.logprob - rows.ref_logprob
            value, slope = _KL[self.kl](gap)
            coef = self.kl_coef if rows.scale is None else self.kl_coef * rows.scale
            loss, c = loss + coef * value, c + coef * slope
        if self.entropy_coef != 0.0:
            ones = torch.ones_like(loss) if rows.scale is None else rows.scale
            coef = self.entropy_coef * ones
            loss, e = loss - coef * rows.entropy, -coef if e is None else e - coef
        return TokenTerms(loss, c, e, term.is_clipped)

    def _weighed(self, rows: TokenRows) -> TokenRows:
        """rows with the factors multiplied into token_weight."""
        factors = [rule(rows) for rule in self.rules]
        if rows.factor is not None:
            factors.append(rows.factor)
        if not factors:
            return rows
        weight = rows.token_weight
        for factor in factors:
            weight = weight * factor
        return replace(rows, token_weight=weight)


@dataclass(frozen=True)
class PolicyGradient(Surrogate):
    """-w logprob."""

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        return TokenTerms(-rows.token_weight * rows.logprob, -rows.token_weight)


def check_numbers(owner: object, *names: str, below: float = float("inf")) -> None:
    """Each a number in [0, below), or None; ValueError with its name otherwise."""
    for name in names:
        value = getattr(owner, name, None)
        if value is not None and not 0.0 <= value < below:
            bound = "" if below == float("inf") else f" and < {below}"
            raise ValueError(f"{name}: expected a number >= 0{bound}, got {value!r}")


def ratio_and_slope(log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """exp(log_ratio) held within e^-20 and e^20, and its derivative, 0 beyond."""
    ratio = log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    return ratio, torch.where(log_ratio.abs() <= LOG_RATIO_BOUND, ratio, 0.0)


def _k1(gap: Tensor) -> tuple[Tensor, Tensor]:
    return gap, torch.ones_like(gap)


def _k2(gap: Tensor) -> tuple[Tensor, Tensor]:
    return 0.5 * gap * gap, gap


def _k3(gap: Tensor) -> tuple[Tensor, Tensor]:
    held = gap.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    slope = torch.where(gap.abs() <= LOG_RATIO_BOUND, -torch.expm1(-held), 0.0)
    return torch.expm1(-held) + held, slope


_KL = {"k1": _k1, "k2": _k2, "k3": _k3}
