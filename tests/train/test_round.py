"""A round's bookkeeping: metrics by hand, guards."""

import pytest

from nsr_fast.errors import GuardStop
from nsr_fast.train.guards import check_update
from nsr_fast.train.numbers import rollout_metrics, update_metrics
from nsr_fast.train.step import UpdateMetrics
from nsr_fast.types import Group, Prompt, Rollout

A, B = Prompt("a", "a", (7, 8), "1", {}), Prompt("b", "b", (9,), "2", {})


def rollout(prompt, *token_ids, logprob=-0.5, finish_reason="stop"):
    logprobs = (logprob,) * len(token_ids)
    return Rollout(prompt, token_ids, logprobs, "text", finish_reason)


GROUPS = [
    Group(
        A,
        (
            rollout(A, 1, 2),
            rollout(A, 3, logprob=-1.0),
            rollout(A, 4, 5, 6, finish_reason="length"),
        ),
    ),
    Group(B, (rollout(B, 1), rollout(B, 2), rollout(B, 3))),
]
VERDICTS = [True, False, None, False, False, False]
ROLLOUTS = [r for group in GROUPS for r in group.rollouts]
for scored, verdict in zip(ROLLOUTS, VERDICTS, strict=True):
    scored.is_correct = verdict


def test_rollout_metrics_by_hand():
    metrics = rollout_metrics(GROUPS)
    assert metrics["reward"] == pytest.approx(1 / 5)
    assert metrics["num_unscored"] == 1
    assert metrics["frac_all_wrong"] == 0.5 and metrics["frac_all_correct"] == 0.0
    assert metrics["num_tokens"] == 9
    assert metrics["entropy"] == pytest.approx((8 * 0.5 + 1.0) / 9)
    assert metrics["completion_length_mean"] == pytest.approx(1.5)
    assert metrics["clipped_ratio"] == pytest.approx(1 / 6)


def test_metrics_of_a_round_without_an_update_are_none():
    metrics = update_metrics(None, GROUPS)
    assert metrics["loss"] is None and metrics["trained_fraction"] == 0.0


def update(**changes):
    values = {"loss": 0.0, "grad_norm": 1.0, "entropy_trained": 1.0, "drift_mean": 1e-7}
    values |= {"drift_max": 1e-6, "clip_fraction": 0.0, "trained_tokens": 4, "steps": 1}
    return UpdateMetrics(**values | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grad_norm": float("nan")}, "gradient norm is nan"),
        ({"grad_norm": float("inf")}, "gradient norm is inf"),
        ({"drift_mean": 2e-3}, r"disagree by 2\.00e-03"),
        ({"drift_mean": float("nan")}, "disagree by nan"),
    ],
)
def test_bad_gradient_or_drift_stops_the_run(changes, words):
    check_update(update(), 3, 1e-3)
    check_update(update(drift_mean=2e-3), 3, None)  # truncated sampling
    with pytest.raises(GuardStop, match=f"round 3: .*{words}"):
        check_update(update(**changes), 3, 1e-3)
