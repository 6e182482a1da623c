"""A round's bookkeeping: who is trained on, metrics by hand, guards, batches, display."""

import io

import pytest
from rich.console import Console

from nsr_fast.errors import GuardStop
from nsr_fast.objective import Objective
from nsr_fast.train.loop import prompt_batches
from nsr_fast.train.progress import Progress, clock
from nsr_fast.train.round import (
    check_update,
    rollout_metrics,
    trained_sequences,
    update_metrics,
)
from nsr_fast.train.step import UpdateMetrics
from nsr_fast.types import Group, Prompt, Rollout, sampling_seed

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
REWARDS = [[1.0, -1.0, None], [-1.0, -1.0, -1.0]]


@pytest.mark.parametrize(
    ("objective", "weights"),
    [
        (Objective.psr(), [1.0]),
        (Objective.nsr(), [-1.0] * 4),
        (Objective.w_reinforce(0.1), [0.1] + [-1.0] * 4),
        (Objective.reinforce(), [1.0] + [-1.0] * 4),
    ],
)
def test_only_rollouts_with_a_weight_are_trained_on(objective, weights):
    sequences = trained_sequences(GROUPS, REWARDS, objective)
    assert [sequence.weight for sequence in sequences] == weights
    first = GROUPS[0].rollouts[0] if weights[0] > 0 else GROUPS[0].rollouts[1]
    assert sequences[0].prompt_ids == (7, 8)
    assert sequences[0].completion_ids == first.token_ids
    assert sequences[0].sampler_logprob == first.sampler_logprob


def test_rollout_metrics_by_hand():
    metrics = rollout_metrics(GROUPS, REWARDS)
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
    values |= {"drift_max": 1e-6, "trained_tokens": 4, "steps": 1}
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


def test_every_epoch_visits_each_prompt_once_in_another_order():
    prompts = list(range(10))
    batches = prompt_batches(prompts, 4, seed=5)
    drawn = [prompt for _ in range(5) for prompt in next(batches)]
    assert sorted(drawn[:10]) == prompts == sorted(drawn[10:])
    assert drawn[:10] != drawn[10:] != prompts
    again = prompt_batches(prompts, 4, seed=5)
    assert [p for _ in range(5) for p in next(again)] == drawn
    assert len(next(prompt_batches([1, 2], 5, seed=0))) == 5  # a batch larger than the data


def test_seeds_differ_between_streams_rounds_and_prompts():
    seeds = {
        sampling_seed(0, stream, r, p)
        for stream in ("train", "eval")
        for r in range(20)
        for p in range(20)
    }
    assert len(seeds) == 800 and all(0 <= seed < 2**62 for seed in seeds)
    assert min(abs(a - b) for a in seeds for b in seeds if a != b) > 10_000


def test_progress_prints_one_plain_line_a_round_without_a_terminal():
    out = io.StringIO()
    metrics = {"round": 2, "reward": 0.25, "entropy": 1.5, "round_time": 30.0, "loss": None}
    metrics |= {f"time/{phase}": 1.0 for phase in ("rollout", "reward", "train", "sync")}
    with Progress(5, Console(file=out)) as progress:
        progress.round_done(metrics)
    (line,) = out.getvalue().splitlines()
    assert line.startswith("round 2/5  reward 0.250  entropy 1.500")
    assert "grad -" in line and line.endswith("ETA 1:30")


def test_clock():
    assert [clock(s) for s in (5, 65, 3661)] == ["0:05", "1:05", "1:01:01"]
