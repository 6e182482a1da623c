"""What stops a run after an update: a non-finite gradient, or an engine that drifted away."""

from math import isfinite

import torch

from nsr_fast.config import Config
from nsr_fast.errors import GuardStop
from nsr_fast.train.step import UpdateMetrics

_DRIFT_LIMIT = {torch.float32: 1e-3, torch.bfloat16: 0.1}


def drift_limit(config: Config, dtype: torch.dtype) -> float | None:
    """Mean |policy - sampler| logprob that stops the run; None: sampling is truncated, so that its
    logprobs are of another distribution."""
    if config.sampling.sampling.is_truncated:
        return None
    return config.limits.drift_limit or _DRIFT_LIMIT[dtype]


def check_update(update: UpdateMetrics, round_index: int, limit: float | None) -> None:
    """Stop on a non-finite gradient (no weight was changed by it) or a drift beyond `limit`."""
    if not isfinite(update.grad_norm):
        raise GuardStop(
            f"round {round_index}: the gradient norm is {update.grad_norm}; that step was not "
            "taken. Lower learning_rate, or look at the rollouts of the round before"
        )
    if limit is not None and not update.drift_mean <= limit:
        raise GuardStop(
            f"round {round_index}: trainer and engine disagree by {update.drift_mean:.2e} nats a "
            f"token on average (limit {limit:.0e}): the engine does not run the trainer's "
            "weights, or precision differs too much (raise drift_limit if that is intended)"
        )
