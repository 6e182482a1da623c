"""Corrections for a sampler that is not the policy: tokens or whole sequences weighed or dropped.

token TIS   min(policy / sampler, cap): `sampler_cap` of every surrogate (objective/surrogate.py)
IcePop      a token rule: the ratio inside [low, high], 0 outside
SequenceMask, OffPolicyNegatives   preparations: factor 0 on all tokens of a sequence

policy = old_logprob, or logprob without one, except where a docstring says otherwise. A bound that
is met exactly keeps the token or sequence.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nsr_fast.kernels.tokens import TokenRows
from nsr_fast.objective.preparation import Sequences
from nsr_fast.objective.surrogate import check_numbers, ratio_and_slope


@dataclass(frozen=True)
class IcePop:
    """policy / sampler where it lies in [low, high], 0 elsewhere; is_mask: 1 in place of the ratio.

    The weighted form is that of Ring-1T and INTELLECT-3 (2512.16144, equation 1: M(k) = k inside)
    and of verl; do not combine it with sampler_cap, which multiplies by the ratio again. SkyRL's
    token mask is is_mask=True.
    Source: ringtech.notion.site/icepop; 0.5 and 5 as in verl's and TRL's examples.
    """

    low: float = 0.5
    high: float = 5.0
    is_mask: bool = False

    needs: ClassVar[tuple[str, ...]] = ("sampler_logprob",)

    def __post_init__(self) -> None:
        _check_range(self)

    def __call__(self, rows: TokenRows) -> Tensor:
        policy = rows.logprob if rows.old_logprob is None else rows.old_logprob
        ratio, _ = ratio_and_slope(policy - rows.sampler_logprob)
        is_inside = (ratio >= self.low) & (ratio <= self.high)
        return torch.where(is_inside, 1.0 if self.is_mask else ratio, 0.0).to(rows.token_weight)


@dataclass(frozen=True)
class SequenceMask:
    """factor 0 on every token of a sequence whose policy / sampler ratio lies outside [low, high].

    kind   "geometric": exp(mean of log ratios), independent of length, bounds near 1;
           "product": exp(sum), the sequence's own importance ratio, which a long sequence leaves
           soon
    Source: geometric and product masks as in SkyRL and verl (rollout correction).
    """

    low: float = 0.99
    high: float = 1.01
    kind: str = "geometric"

    needs: ClassVar[tuple[str, ...]] = ("policy", "sampler_logprob")

    def __post_init__(self) -> None:
        _check_range(self)
        if self.kind not in ("geometric", "product"):
            raise ValueError(f"kind: expected 'geometric' or 'product', got {self.kind!r}")

    def __call__(self, rows: Sequences) -> dict[str, list[Tensor]]:
        made = []
        for policy, sampler in zip(rows.policy, rows.sampler_logprob, strict=True):
            gap = (policy - sampler).double()
            total = gap.sum() if self.kind == "product" else gap.sum() / max(len(gap), 1)
            ratio, _ = ratio_and_slope(total)
            is_kept = (ratio >= self.low) & (ratio <= self.high)
            made.append(is_kept.to(policy).expand(len(policy)))
        return {"factor": made}


@dataclass(frozen=True)
class OffPolicyNegatives:
    """factor 0 on the tokens of weight < 0 of a sequence whose mean log(sampler / policy) > limit.

    The policy is the one of this step (logprob), not that before the round's first: the mask sees
    the sampler's drift and that of the updates. Only negatives are dropped: a wrong answer that the
    policy has left already is pushed no further.
    Source: DeepSeek-V3.2's off-policy sequence mask, as in TRL's off_policy_mask_threshold
    (0.5 in its example).
    """

    limit: float = 0.5

    needs: ClassVar[tuple[str, ...]] = ("logprob", "sampler_logprob")

    def __post_init__(self) -> None:
        check_numbers(self, "limit")

    def __call__(self, rows: Sequences) -> dict[str, list[Tensor]]:
        made = []
        for w, logprob, sampler in zip(
            rows.weight, rows.logprob, rows.sampler_logprob, strict=True
        ):
            gap = (sampler - logprob).double().sum() / max(len(w), 1)
            made.append(((w >= 0) | (gap <= self.limit)).to(logprob))
        return {"factor": made}


def _check_range(owner: IcePop | SequenceMask) -> None:
    check_numbers(owner, "low", "high")
    if owner.low > owner.high:
        raise ValueError(f"low: expected a number <= high={owner.high!r}, got {owner.low!r}")
