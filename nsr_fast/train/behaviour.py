"""How the policy behaves in a round's rollouts: entropy, repetition, length, with their limits."""

from collections.abc import Mapping, Sequence

import torch

from nsr_fast.config_run import LimitKeys
from nsr_fast.train.findings import Finding
from nsr_fast.types import Group, Rollout

_MIN_TOKENS = 64
_REPEATED = 0.8
_ID_BITS = 32


def behaviour_findings(
    keys: LimitKeys, numbers: Mapping, groups: Sequence[Group], first_length: float
) -> list[Finding]:
    """For each guard that is met.

    numbers        of rollout_metrics
    first_length   mean completion length of the run's first round
    """
    if not numbers["num_tokens"]:
        return []
    return [
        *_entropy(keys, numbers),
        *_repetition(keys, numbers, groups),
        *_length(keys, numbers, first_length),
    ]


def _entropy(keys: LimitKeys, numbers: Mapping) -> list[Finding]:
    entropy = numbers["entropy"]
    what = f"the entropy of the sampled tokens is {entropy:.4g} nats"
    floor, ceiling = keys.entropy_floor, keys.entropy_ceiling
    if floor is not None and entropy < floor:
        cure = "lower learning_rate, add entropy_coef, or take objective nsr or w_reinforce"
        return [Finding("entropy_floor", what, cure, floor)]
    if ceiling is not None and entropy > ceiling:
        cure = "lower learning_rate, or take a larger psr_weight"
        return [Finding("entropy_ceiling", what, cure, ceiling)]
    return []


def _repetition(keys: LimitKeys, numbers: Mapping, groups: Sequence[Group]) -> list[Finding]:
    share, limit = numbers["repetition"], keys.max_repetition
    if limit is None or share < limit:
        return []
    example = next(r for group in groups for r in group.rollouts if runs_in_circles(r))
    what = f"{share:.0%} of the completions run in circles"
    cure = "lower learning_rate, or max_completion_length"
    return [Finding("max_repetition", what, cure, limit, example)]


def _length(keys: LimitKeys, numbers: Mapping, first: float) -> list[Finding]:
    mean, limit = numbers["completion_length_mean"], keys.max_length_change
    if limit is None or first / limit <= mean <= first * limit:
        return []
    what = f"completions have {mean:.4g} tokens on average, in the first round {first:.4g}"
    cure = "lower learning_rate, or look at rollouts/"
    return [Finding("max_length_change", what, cure, limit)]


def runs_in_circles(rollout: Rollout) -> bool:
    """64 tokens or more, and at least 0.8 of its 4-grams occurred earlier in it."""
    if len(rollout.token_ids) < _MIN_TOKENS:
        return False
    ids = torch.tensor(rollout.token_ids)
    pairs = _numbered((ids[:-1] << _ID_BITS) + ids[1:])
    fours = _numbered((pairs[:-2] << _ID_BITS) + pairs[2:])
    return 1 - (int(fours.max()) + 1) / fours.numel() >= _REPEATED


def _numbered(values: torch.Tensor) -> torch.Tensor:
    """Equal values by equal numbers from 0 on."""
    return values.unique(return_inverse=True)[1]
