"""Preparations: ratios of sequences, and factors and marks by statistics of the minibatch.

Each is a frozen dataclass of numbers, called with Sequences (nsr_fast/objective/preparation.py);
masks against the sampler stand in corrections.py. Statistics are over tokens of weight != 0.
Trap: a covariance with the weight is 0 when all weights are equal, so ClipCov and KlCovMarks do
nothing useful under PSR or NSR alone.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nsr_fast.objective.preparation import Sequences
from nsr_fast.objective.ratio import bounds, clips
from nsr_fast.objective.rules import check_sign, is_of_sign
from nsr_fast.objective.surrogate import check_numbers, ratio_and_slope

Made = dict[str, list[Tensor]]


@dataclass(frozen=True)
class SequenceRatio:
    """sequence_ratio = exp(mean or sum over a sequence of logprob - before), within e^-20, e^20.

    kind      "mean": GSPO's (pi / pi_old)^(1/T); "product": TOPR's pi / mu
    against   "old" or "sampler": what is before
    """

    kind: str = "mean"
    against: str = "old"

    def __post_init__(self) -> None:
        if self.kind not in ("mean", "product"):
            raise ValueError(f"kind: expected 'mean' or 'product', got {self.kind!r}")
        if self.against not in ("old", "sampler"):
            raise ValueError(f"against: expected 'old' or 'sampler', got {self.against!r}")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("logprob", f"{self.against}_logprob")

    def __call__(self, rows: Sequences) -> Made:
        pairs = zip(rows.logprob, getattr(rows, f"{self.against}_logprob"), strict=True)
        return {"sequence_ratio": [_whole((x - y).double(), self.kind).to(x) for x, y in pairs]}


@dataclass(frozen=True)
class GmpoRatio:
    """sequence_ratio of Gmpo: the mean of its clipped log ratios, the epsilons those of Gmpo."""

    epsilon: float = 0.4
    epsilon_high: float | None = None

    needs: ClassVar[tuple[str, ...]] = ("logprob", "old_logprob")

    def __post_init__(self) -> None:
        check_numbers(self, "epsilon", "epsilon_high")

    def __call__(self, rows: Sequences) -> Made:
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        made = []
        for w, logprob, old in zip(rows.weight, rows.logprob, rows.old_logprob, strict=True):
            log_ratio = (logprob - old).double()
            sign = w.sign().double()
            least = torch.minimum(sign * log_ratio, sign * log_ratio.clamp(-self.epsilon, high))
            made.append(_whole(sign * least, "mean").to(logprob))
        return {"sequence_ratio": made}


@dataclass(frozen=True)
class ClipCov:
    """factor 0 on at most `share` of the tokens, drawn among those with low < cov < high; else 1.

        cov = (w - mean w) (logprob - mean logprob)

    Tokens that PPO's clip (same epsilons) silences anyway are not drawn; it goes with PpoClip.
    At least one token is drawn where any qualifies.
    Source: 2505.22617, as in verl's clip_cov, with its defaults.
    """

    share: float = 2e-4
    low: float = 1.0
    high: float = 5.0
    epsilon: float = 0.2
    epsilon_high: float | None = None

    needs: ClassVar[tuple[str, ...]] = ("logprob", "old_logprob")

    def __post_init__(self) -> None:
        check_numbers(self, "share", "epsilon", "epsilon_high")

    def __call__(self, rows: Sequences) -> Made:
        w, logprob = rows.flat("weight"), rows.flat("logprob")
        ratio, _ = ratio_and_slope(logprob - rows.flat("old_logprob"))
        cov = _covariance(w, logprob)
        is_free = ~clips(w, ratio, *bounds(self.epsilon, self.epsilon_high))
        found = ((cov > self.low) & (cov < self.high) & is_free & (w != 0)).nonzero().squeeze(1)
        order = torch.randperm(len(found), generator=rows.generator).to(found.device)
        most = max(int(self.share * int((w != 0).sum())), 1)
        factor = torch.ones_like(logprob)
        factor[found[order[:most]]] = 0.0
        return {"factor": rows.split(factor)}


@dataclass(frozen=True)
class KlCovMarks:
    """mark 1 on the `share` of tokens (at least one) with the largest covariance, for KlCov.

    Source: 2505.22617, as in verl's kl_cov, with its default.
    """

    share: float = 2e-4

    needs: ClassVar[tuple[str, ...]] = ("logprob",)

    def __post_init__(self) -> None:
        check_numbers(self, "share")

    def __call__(self, rows: Sequences) -> Made:
        w, logprob = rows.flat("weight"), rows.flat("logprob")
        count = int((w != 0).sum())
        cov = _covariance(w, logprob).masked_fill(w == 0, -torch.inf)
        most = min(max(int(self.share * count), 1), count)
        mark = torch.zeros_like(logprob)
        mark[cov.topk(most).indices] = 1.0
        return {"mark": rows.split(mark)}


@dataclass(frozen=True)
class TopEntropy:
    """factor 1 on the `share` of tokens with the highest entropy in the minibatch, 0 elsewhere.

    Kept where H >= the (1 - share) quantile, linearly interpolated: ties at it are all kept.
    Source: 2506.01939 (80/20), share 0.2 there; as in TRL's top_entropy_quantile.
    """

    share: float = 0.2

    needs: ClassVar[tuple[str, ...]] = ("entropy",)

    def __post_init__(self) -> None:
        _check_share(self.share)

    def __call__(self, rows: Sequences) -> Made:
        entropy = rows.flat("entropy")
        least = quantile(entropy[rows.flat("weight") != 0], 1.0 - self.share)
        return {"factor": rows.split((entropy >= least).to(entropy))}


@dataclass(frozen=True)
class SpuriousTokens:
    """SilenceSpurious with the `entropy_quantile` of the minibatch as its threshold: factor 0 or 1.

    The paper counts N without them: kept_lengths of objective/preparation.py gives the lengths.
    Source: STAPO, 2602.15620, probability 0.002; a public reading of its entropy bound finds both
    20 % and 80 %, and 20 % is what fits "low entropy". See SilenceSpurious.
    """

    probability: float = 0.002
    entropy_quantile: float = 0.2
    on: str = "positive"

    needs: ClassVar[tuple[str, ...]] = ("logprob", "entropy")

    def __post_init__(self) -> None:
        check_numbers(self, "probability")
        _check_share(self.entropy_quantile)
        check_sign(self.on)

    def __call__(self, rows: Sequences) -> Made:
        w, entropy, logprob = (rows.flat(name) for name in ("weight", "entropy", "logprob"))
        least = quantile(entropy[w != 0], self.entropy_quantile)
        is_spurious = is_of_sign(w, self.on) & (entropy < least)
        is_spurious &= logprob.exp() < self.probability
        return {"factor": rows.split((~is_spurious).to(entropy))}


@dataclass(frozen=True)
class ZeroVariance:
    """factor 1 - f + f alpha H for w > 0, 1 - f + f alpha (max H of the sequence - H) for w < 0.

    f = entropy_share: 1 in groups of one verdict, 0 elsewhere. An all-wrong rollout is punished
    most where the policy was sure. alpha is 0.1 in the paper; 1 where the weights hold it already.
    Source: RL-ZVP, 2509.21880.
    """

    alpha: float = 1.0

    needs: ClassVar[tuple[str, ...]] = ("entropy", "entropy_share")

    def __post_init__(self) -> None:
        check_numbers(self, "alpha")

    def __call__(self, rows: Sequences) -> Made:
        made = []
        for w, entropy, f in zip(rows.weight, rows.entropy, rows.entropy_share, strict=True):
            peak = entropy.max() if len(entropy) else 0.0
            size = torch.where(w < 0, peak - entropy, entropy)
            made.append(1.0 - f + f * self.alpha * size)
        return {"factor": made}


def quantile(values: Tensor, share: float) -> Tensor:
    """The `share` quantile, linearly interpolated, of any number of values; NaN of none.

    torch.quantile refuses more than 2^24.
    """
    if not len(values):
        return values.new_full((), torch.nan)
    ordered = values.sort().values
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return torch.lerp(ordered[low], ordered[high], place - low)


def _whole(log_ratio: Tensor, kind: str) -> Tensor:
    """The ratio of a sequence on each of its tokens."""
    if not len(log_ratio):
        return log_ratio
    total = log_ratio.mean() if kind == "mean" else log_ratio.sum()
    return ratio_and_slope(total)[0].expand(len(log_ratio))


def _covariance(weight: Tensor, logprob: Tensor) -> Tensor:
    """Of the trained tokens; what it holds elsewhere is meaningless."""
    is_trained = weight != 0
    return (weight - weight[is_trained].mean()) * (logprob - logprob[is_trained].mean())


def _check_share(share: float) -> None:
    if not 0.0 < share < 1.0:
        raise ValueError(f"share: expected a number in (0, 1), got {share!r}")
