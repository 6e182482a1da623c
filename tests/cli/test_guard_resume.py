"""What guards remember goes on in a resumed run."""

import pytest
from cli.guard_runs import broken_gradient, changed_learner, guard_lines, of_tokens, same_weights
from cli.tiny_runs import completed, run_train, watched_engine, write_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


def test_the_raised_weight_goes_on(policy, tmp_path):
    keys = {"objective": "w_reinforce", "entropy_ceiling": 2, "psr_weight": 0.05}
    keys |= {"guard_actions": "entropy_ceiling=raise_lambda"}
    met = {"entropy_ceiling"}
    whole = completed(run_train(tmp_path / "a", policy, max_rounds=4, **keys), met=met)
    completed(run_train(tmp_path / "b", policy, max_rounds=2, **keys), met=met)
    keys["resume_from_checkpoint"] = "true"
    parts = completed(run_train(tmp_path / "b", policy, max_rounds=4, **keys), met=met)
    assert [line["psr_weight"] for line in parts.metrics] == [0.1, 0.2, 0.4, 0.8]
    assert same_weights(parts.weights(4), whole.weights(4))


def test_steps_left_out_in_a_row_are_counted_on(policy, tmp_path):
    keys = {"max_skipped_steps": 2}
    with changed_learner(broken_gradient(2)):
        completed(run_train(tmp_path, policy, max_rounds=2, **keys), met={"non_finite"})
    with changed_learner(broken_gradient(1, 2)):
        run = run_train(tmp_path, policy, max_rounds=5, resume_from_checkpoint="true", **keys)
    assert run.code == 3 and "round 4" in run.err and "3 such steps in a row" in run.err
    assert len(run.metrics) == 4


def test_the_first_round_stays_the_measure_of_length(policy, tmp_path):
    keys = {"max_length_change": 2.4, "drift_limit": 100}
    with watched_engine(of_tokens(2, 4)):
        completed(run_train(tmp_path, policy, max_rounds=2, **keys))
    with watched_engine(of_tokens(5)):
        run = run_train(tmp_path, policy, max_rounds=3, resume_from_checkpoint="true", **keys)
    assert guard_lines(completed(run, met={"max_length_change"})) == [("max_length_change", "warn")]
