"""A round's bookkeeping: metrics by hand."""

import pytest

from nsr_fast.train.numbers import rollout_metrics, update_metrics
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
