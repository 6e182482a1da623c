"""Surrogates of one token's ratio r = exp(logprob - old_logprob): clips, gates, trust regions.

With against="sampler" the ratio is taken against the logprob a token was sampled with instead (no
pass for old logprobs; the clip then corrects the sampler's drift too, so sampler_cap would count it
twice and is refused).
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from nsr_fast.kernels.tokens import TokenRows, TokenTerms
from nsr_fast.objective.surrogate import Surrogate, check_numbers, ratio_and_slope


@dataclass(frozen=True)
class RatioSurrogate(Surrogate):
    """Base: which logprob the ratio is taken against."""

    against: str = field(default="old", kw_only=True)

    needs_old: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.against not in ("old", "sampler"):
            raise ValueError(f"against: expected 'old' or 'sampler', got {self.against!r}")
        if self.against == "sampler" and self.sampler_cap is not None:
            raise ValueError(
                f"sampler_cap: expected None with against='sampler', got {self.sampler_cap!r}; "
                "the ratio corrects for the sampler already"
            )

    def reads(self) -> set[str]:
        return {f"{self.against}_logprob"}

    def before(self, rows: TokenRows) -> Tensor:
        """The logprob [C] that the ratio is taken against."""
        return getattr(rows, f"{self.against}_logprob")

    def log_ratio(self, rows: TokenRows) -> Tensor:
        return rows.logprob - self.before(rows)


@dataclass(frozen=True)
class PpoClip(RatioSurrogate):
    """-min(w r, w clip(r, 1 - epsilon, 1 + epsilon_high)); dual_clip > 1 caps r where w < 0.

    Trap: without dual_clip a wrong token's gradient grows with r without limit (until r = e^20).
    Source: 1707.06347; dual clip 1912.09729; clip-higher 2503.14476.
    """

    epsilon: float = 0.2
    epsilon_high: float | None = None
    dual_clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dual_clip is not None and not self.dual_clip > 1.0:
            raise ValueError(f"dual_clip: expected a number > 1, got {self.dual_clip!r}")

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        w = rows.token_weight
        ratio, slope = ratio_and_slope(self.log_ratio(rows))
        low, high = bounds(self.epsilon, self.epsilon_high)
        is_clipped = clips(w, ratio, low, high)
        bounded = torch.where(is_clipped, ratio.clamp(low, high), ratio)
        if self.dual_clip is not None:
            is_far = (w < 0) & (ratio > self.dual_clip)
            bounded = torch.where(is_far, self.dual_clip, bounded)
            is_clipped = is_clipped | is_far
        c = torch.where(is_clipped, 0.0, -w * slope)
        return TokenTerms(-w * bounded, c, is_clipped=is_clipped)


@dataclass(frozen=True)
class Cispo(RatioSurrogate):
    """-w clip(r, 1 - epsilon, 1 + epsilon_high) logprob: the ratio is a constant weight.

    Source: 2506.13585 (which sets no lower bound: epsilon=1).
    """

    epsilon: float = 0.2
    epsilon_high: float | None = None

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        ratio, _ = ratio_and_slope(self.log_ratio(rows))
        low, high = bounds(self.epsilon, self.epsilon_high)
        c = -rows.token_weight * ratio.clamp(low, high)
        is_clipped = (ratio < low) | (ratio > high)
        return TokenTerms(c * rows.logprob, c, is_clipped=is_clipped)


@dataclass(frozen=True)
class Sapo(RatioSurrogate):
    """-w (4 / tau) sigmoid(tau (r - 1)): a soft gate; tau_positive where w > 0, else tau_negative.

        c = -w 4 s (1 - s) r,  s = sigmoid(tau (r - 1));   -w at r = 1, as without a gate

    The larger tau_negative makes wrong tokens fade sooner. Nothing is clipped, so is_clipped stays
    None. Source: 2511.20347, equation and defaults as in verl, SkyRL and TRL; a mean over sequences
    goes with it.
    """

    tau_positive: float = 1.0
    tau_negative: float = 1.05

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tau_positive", "tau_negative"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected a number > 0, got {getattr(self, name)!r}")

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        w = rows.token_weight
        ratio, slope = ratio_and_slope(self.log_ratio(rows))
        tau = torch.full_like(w, self.tau_negative).masked_fill(w > 0, self.tau_positive)
        gate = torch.sigmoid(tau * (ratio - 1.0))
        return TokenTerms(-w * gate * 4.0 / tau, -w * 4.0 * gate * (1.0 - gate) * slope)


@dataclass(frozen=True)
class Dppo(RatioSurrogate):
    """-w min(r, ratio_cap) logprob inside a trust region, 0 outside; ratio and region constant.

        tv   dropped where w > 0 and p - q > delta_high, or w < 0 and q - p > delta_low
        kl   dropped where the same side moved and q log(q/p) + (1-q) log((1-q)/(1-p)) > delta

    p, q: probability of the token under the policy and before (`against`). A token that moves back
    is never dropped. Unlike a ratio clip, rare tokens may move by large factors, and frequent ones
    may not move much. delta 0.15 (tv) and 0.05 (kl) are those of verl's example. The paper takes q
    from the sampler (section 5.2): against="sampler".
    Source: 2602.04879, equations 13 and 14; the detached capped ratio as in verl's dppo_tv.
    """

    divergence: str = "tv"
    delta_low: float = 0.15
    delta_high: float | None = None
    ratio_cap: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divergence not in ("tv", "kl"):
            raise ValueError(f"divergence: expected 'tv' or 'kl', got {self.divergence!r}")
        check_numbers(self, "delta_low", "delta_high", "ratio_cap")

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        w, before = rows.token_weight, self.before(rows)
        ratio, _ = ratio_and_slope(rows.logprob - before)
        p, q = rows.logprob.exp(), before.exp()
        delta_high = self.delta_low if self.delta_high is None else self.delta_high
        size = (p - q).abs() if self.divergence == "tv" else _binary_kl(q, p, before, rows.logprob)
        is_high = (w > 0) & (p > q) & (size > delta_high)
        is_low = (w < 0) & (p < q) & (size > self.delta_low)
        is_clipped = is_high | is_low
        c = torch.where(is_clipped, 0.0, -w * ratio.clamp(max=self.ratio_cap))
        return TokenTerms(c * rows.logprob, c, is_clipped=is_clipped)


@dataclass(frozen=True)
class Topr(RatioSurrogate):
    """-w logprob for w > 0, -w clip(ratio, 0, cap) logprob for w < 0, the ratio held constant.

    Correct rollouts are imitated whatever the ratio; wrong ones fade as they get unlikely. The
    paper's ratio is the whole sequence's, pi(y) / mu(y): level="sequence" reads sequence_ratio
    (SequenceRatio("product") of objective/sequence.py makes it). level="token" is a variant of ours
    with less variance.
    Source: 2503.14286, equation of grad J_topr; cap 1 there.
    """

    level: str = "sequence"
    cap: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level not in ("sequence", "token"):
            raise ValueError(f"level: expected 'sequence' or 'token', got {self.level!r}")
        check_numbers(self, "cap")

    def reads(self) -> set[str]:
        return {"sequence_ratio"} if self.level == "sequence" else super().reads()

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        w = rows.token_weight
        if self.level == "sequence":
            ratio = rows.sequence_ratio
        else:
            ratio, _ = ratio_and_slope(self.log_ratio(rows))
        taper = torch.where(w < 0, ratio.clamp(max=self.cap), 1.0)
        c = -w * taper
        return TokenTerms(c * rows.logprob, c, is_clipped=(w < 0) & (ratio > self.cap))


@dataclass(frozen=True)
class KlCov(RatioSurrogate):
    """-w r, and cov_coef |log r| more on the tokens that `mark` names; nothing is clipped.

    The marks are those of largest covariance of logprob and weight: KlCovMarks of
    objective/sequence.py. cov_coef counts per marked row times scale, as kl_coef does.
    Source: 2505.22617, as in verl and SkyRL (cov_coef 1 there).
    """

    cov_coef: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "cov_coef")

    def reads(self) -> set[str]:
        return super().reads() | {"mark"}

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        w, log_ratio = rows.token_weight, self.log_ratio(rows)
        ratio, slope = ratio_and_slope(log_ratio)
        coef = self.cov_coef * rows.mark
        if rows.scale is not None:
            coef = coef * rows.scale
        loss = -w * ratio + coef * log_ratio.abs()
        return TokenTerms(loss, -w * slope + coef * log_ratio.sign())


def bounds(epsilon: float, epsilon_high: float | None) -> tuple[float, float]:
    return 1.0 - epsilon, 1.0 + (epsilon if epsilon_high is None else epsilon_high)


def clips(weight: Tensor, ratio: Tensor, low: float, high: float) -> Tensor:
    """Where min(w r, w clip(r, low, high)) is the clipped one: no slope there."""
    return ((weight > 0) & (ratio > high)) | ((weight < 0) & (ratio < low))


def _binary_kl(q: Tensor, p: Tensor, log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL of the coin "this token or another", q before against p now; 1e-8 keeps it finite."""
    tiny = 1e-8
    other_q, other_p = ((1.0 - x).clamp(min=0.0) for x in (q, p))
    rest = other_q * ((other_q + tiny) / (other_p + tiny)).log()
    return q * (log_q - log_p) + rest
