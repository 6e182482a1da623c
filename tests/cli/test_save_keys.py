"""save_total_limit, save_best, save_only_weights: which checkpoints there are in the end."""

import pytest
from cli.tiny_runs import completed, run_train, write_policy

EVAL_ROWS = [{"id": f"e{i}", "prompt": f"{i}-1=", "answer": "7"} for i in range(5)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


def folders(run):
    return {path.name for path in (run.folder / "checkpoints").iterdir()}


def target(run, link):
    return (run.folder / "checkpoints" / link).resolve().name


def test_the_newest_are_kept(policy, tmp_path):
    run = completed(run_train(tmp_path, policy, max_rounds=4, save_rounds=1, save_total_limit=2))
    assert folders(run) == {"last", "round-3", "round-4"} and target(run, "last") == "round-4"


def test_the_best_round_is_kept_beside_them(policy, tmp_path):
    keys = {"max_rounds": 5, "eval_rounds": 1, "eval_rows": EVAL_ROWS, "objective": "reinforce"}
    keys |= {"save_best": "pass_at_2", "save_total_limit": 1, "reward": "parity"}
    run = completed(run_train(tmp_path, policy, **keys))
    at = {line["round"]: line["pass_at_k"][line["k"].index(2)] for line in run.evaluations}
    best = max((n for n in at if n), key=at.get)
    assert 1 < best < 5, at  # else this tests nothing: another seed
    assert folders(run) == {"last", "best", f"round-{best}", "round-5"}
    assert target(run, "best") == f"round-{best}" and target(run, "last") == "round-5"


def test_weights_alone_have_no_trainer_state(policy, tmp_path):
    whole = completed(run_train(tmp_path / "whole", policy))
    run = completed(run_train(tmp_path / "weights", policy, save_only_weights="true"))
    names = {path.name for path in run.checkpoint(1).iterdir()}
    assert names == {path.name for path in whole.checkpoint(1).iterdir()} - {"trainer_state.pt"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"save_best": "pass_at_3"}, "save_best: expected one of pass_at_1, pass_at_2, pass_at_4"),
        ({"save_best": "pass_at_4", "eval_rounds": 0}, "save_best: needs eval_rounds"),
    ],
)
def test_a_best_that_is_not_measured_is_refused(policy, tmp_path, keys, words):
    run = run_train(tmp_path, policy, eval_rows=EVAL_ROWS, **{"eval_rounds": 1, **keys})
    assert run.code == 2 and words in run.err and not run.folder.exists()
