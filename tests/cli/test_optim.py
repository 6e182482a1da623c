"""optim: adamw_8bit at the level of a run: its state, its weights, and that it trains."""

import pytest
import torch
from cli.tiny_runs import completed, run_train, write_policy

from nsr_fast.kernels.adamw_8bit_reference import dequantized

STOCHASTIC = {"float32": {}, "bfloat16": {"master_weights": "stochastic"}}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


def state_of(run, round_index):
    path = run.checkpoint(round_index) / "trainer_state.pt"
    return torch.load(path, weights_only=True)["optimizer"]["parameters"]


@pytest.mark.parametrize("dtype", STOCHASTIC)
def test_the_first_step_is_that_of_adamw_and_its_state_has_three_bytes(policy, tmp_path, dtype):
    """The moments are rounded after they have moved the weight, with the same random bits."""
    sizes = {"dtype": dtype, "max_rounds": 2, "save_rounds": 1, "learning_rate": 1e-2}
    plain = completed(run_train(tmp_path / "a", policy, **sizes, **STOCHASTIC[dtype]))
    eight = completed(run_train(tmp_path / "b", policy, **sizes, optim="adamw_8bit"))
    for name, weight in plain.weights(1).items():
        assert torch.equal(weight, eight.weights(1)[name])
    assert any(not torch.equal(w, eight.weights(2)[name]) for name, w in plain.weights(2).items())
    theirs = state_of(plain, 1)
    for name, state in state_of(eight, 1).items():
        assert (state["exp_avg"].dtype, state["exp_avg_sq"].dtype) == (torch.int8, torch.bfloat16)
        assert state["master"] is None and isinstance(state["seed"], int)
        m = dequantized(state["exp_avg"], state["absmax"])
        coarse = 0.00704 * theirs[name]["exp_avg"].abs().max()
        assert (m - theirs[name]["exp_avg"]).abs().max() <= coarse
        v, exact = state["exp_avg_sq"].float(), theirs[name]["exp_avg_sq"]
        assert ((v - exact).abs() <= 2.0**-7 * exact).all()


def test_a_run_learns_what_is_rewarded(policy, tmp_path):
    """Odd first tokens are correct: half of them at first."""
    settings = {"objective": "reinforce", "learning_rate": 2e-2, "max_rounds": 12}
    settings |= {"dtype": "bfloat16", "optim": "adamw_8bit", "prompts_per_round": 6}
    run = completed(run_train(tmp_path, policy, **settings))
    share = [line["reward"] for line in run.metrics]
    assert sum(share[:3]) / 3 < 0.6 and sum(share[-3:]) / 3 > 0.75
