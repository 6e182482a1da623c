"""Seeds of the sampling noise, and which rollouts are trained."""

import pytest

from nsr_fast.types import Prompt, Rollout, sampling_seed


def test_seeds_differ_between_streams_rounds_and_prompts():
    seeds = {
        sampling_seed(0, stream, r, p)
        for stream in ("train", "eval")
        for r in range(20)
        for p in range(20)
    }
    assert len(seeds) == 800 and all(0 <= seed < 2**62 for seed in seeds)
    assert min(abs(a - b) for a in seeds for b in seeds if a != b) > 10_000


@pytest.mark.parametrize(
    ("weight", "is_trained"),
    [(0.0, False), (-1.0, True), ((0.0, 0.0), False), ((0.0, -0.5), True), ((), False)],
)
def test_a_rollout_is_trained_when_some_token_has_a_weight(weight, is_trained):
    rollout = Rollout(Prompt("a", "", (1,), None, {}), (5, 6), (), "", "stop", weight=weight)
    assert rollout.is_trained is is_trained
