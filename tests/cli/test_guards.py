"""Rounds in which nothing was judged stop a run before they train; suspicious golds are listed."""

import dataclasses

import pytest
from cli.guard_runs import written
from cli.tiny_runs import completed, run_train, train_rows, watched_engine, write_policy

CONSTANT = """
def zero(completions, **columns):
    return [0.0] * len(completions)

def nothing(completions, **columns):
    return [None] * len(completions)
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


def stopped(run, round_index, *words):
    assert run.code == 3, (run.err, run.out)
    (line,) = run.err.splitlines()
    for word in (f"round {round_index}, nothing was trained on it", *words):
        assert word in line, line
    assert len(run.metrics) == round_index - 1


BOX = r"row {{}} \boxed{{9{j}}}"
CASES = {
    "max_truncated": (written(BOX, "length"), 0.9, 1, "8 of 8", "raise max_completion_length"),
    "max_no_answer": (written("no idea {j}"), 0.5, 1, "8 of 8", "'no idea 0'"),
    "first_correct_rounds": (written(BOX), 2, 2, "not one completion was correct by math"),
}


@pytest.mark.parametrize("key", CASES)
def test_a_guard_stops_a_round_that_was_not_judged_and_can_be_turned_off(policy, tmp_path, key):
    change, limit, round_index, *words = CASES[key]
    keys = {"reward": "math", "max_rounds": 2}
    with watched_engine(change):
        run = run_train(tmp_path / "on", policy, **keys, **{key: limit})
        completed(run_train(tmp_path / "off", policy, **keys, **{key: "none"}))
    stopped(run, round_index, *words, f"set {key} (now {limit:g}; none: off)", "row 't")
    assert (run.folder / "checkpoints").exists() == (round_index == 2)  # the round before is kept


def test_default_limits_stop_the_first_round(policy, tmp_path):
    """As a stranger starts it: nothing about guards in the settings."""
    with watched_engine(written("no idea", "length")):
        run = run_train(tmp_path, policy, reward="math", max_truncated=0.9)
    stopped(run, 1, "were cut off at max_completion_length 8")


def test_unscored_rounds_and_constant_rewards_name_the_function(policy, tmp_path):
    (tmp_path / "own.py").write_text(CONSTANT)
    own = {"reward": f"{tmp_path}/own.py:zero", "max_rounds": 3}
    first = run_train(tmp_path / "a", policy, **own, constant_reward_rounds=1)
    stopped(first, 1, "own.py:zero gave", "the reward 0")
    late = run_train(tmp_path / "b", policy, **own, constant_reward_rounds=2)
    stopped(late, 2, "constant_reward_rounds (now 2; none: off)")
    completed(run_train(tmp_path / "c", policy, **own, constant_reward_rounds="none"))
    own["reward"] = f"{tmp_path}/own.py:nothing"
    stopped(run_train(tmp_path / "d", policy, **own, max_unscored=1.0), 1, "8 of 8", "max_unscored")


def test_rollouts_that_the_budget_cut_stop_nothing(policy, tmp_path):
    keys = {"max_unscored": 0.1, "max_truncated": 0.1, "round_token_budget": 1}
    run = completed(run_train(tmp_path, policy, **keys))
    assert run.metrics[0]["num_cut"] >= 7 == run.metrics[0]["num_unscored"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("evaluates", [False, True])
def test_logprobs_of_the_engine_that_are_no_numbers_are_named(policy, tmp_path, value, evaluates):
    """Sample 3 of the last prompt only, which the reward drops."""

    def broken(call, stream):
        for prompt, sample, rollout in stream:
            if call.is_training != evaluates and (prompt, sample) == (len(call.prompts) - 1, 3):
                logprob = (value, *rollout.sampler_logprob[1:])
                rollout = dataclasses.replace(rollout, sampler_logprob=logprob)
            yield prompt, sample, rollout

    evaluation = {"eval_rows": [{"id": "e0", "prompt": "?", "answer": "1"}]} if evaluates else {}
    with watched_engine(broken) as watched:
        run = run_train(tmp_path, policy, reward="parity_of_problems", **evaluation)
    name = watched.calls[-1].prompts[-1].id
    where = "evaluation" if evaluates else "round 1"
    assert run.code == 3 and f"{where}: prompt {name!r}: the engine gave 1 of" in run.err
    assert f"logprobs as {value}" in run.err


def test_verdicts_and_reasons_are_those_of_the_round_and_apart_for_evaluation(policy, tmp_path):
    def half(call, stream):
        for prompt, sample, rollout in stream:
            said = rf"\boxed{{{call.prompts[prompt].answer}}}" if sample % 2 else "none"
            yield prompt, sample, dataclasses.replace(rollout, text=said, finish_reason="stop")

    problems = [{"id": f"e{i}", "prompt": f"{i}-1=", "answer": str(i - 1)} for i in range(3)]
    with watched_engine(half):
        run = run_train(
            tmp_path, policy, reward="math", eval_rows=problems, eval_rounds=1, max_rounds=2
        )
    for metrics in completed(run).metrics:
        assert metrics["verdict/correct"] == metrics["verdict/wrong"] == 0.5
        assert metrics["reason/equal"] == metrics["reason/no_answer"] == 0.5
        assert metrics["verdict/unscored"] == 0.0
        assert metrics["verify/correct"] == metrics["verify/wrong"] == 4
        assert metrics["reward/math/mean"] == 0.0
    for line in run.evaluations:
        assert line["num_unscored"] == line["num_truncated"] == 0
        assert (line["verdict/correct"], line["reason/no_answer"]) == (6, 6)


def agreeing(call, stream):
    """Rows t0 and t1 agree on 77 and 78, sample 0 aside; the others are right."""
    for prompt, sample, rollout in stream:
        row = call.prompts[prompt]
        said = {"t0": "77", "t1": "78"}.get(row.id, row.answer) if sample else "5"
        said = rf"\boxed{{{said}}}"
        yield prompt, sample, dataclasses.replace(rollout, text=said, finish_reason="stop")


def test_suspicious_golds_are_listed_and_dropped_only_when_asked(policy, tmp_path):
    keys = {"reward": "math", "max_rounds": 4, "prompts_per_round": 3, "rows": train_rows(3)}
    with watched_engine(agreeing) as watched:
        run = completed(run_train(tmp_path / "a", policy, **keys))
    expected = [
        {"id": name, "answer": gold, "agreed_on": found, "rounds": 4, "rollouts": 12, "of": 16}
        for name, gold, found in (("t0", "0", "77"), ("t1", "2", "78"))
    ]
    assert sorted(run.lines("suspicious_golds.jsonl"), key=lambda line: line["id"]) == expected
    page = (run.folder / "report.html").read_text()
    assert "Suspicious golds" in page and "12 of 16" in page and "<td>77</td>" in page
    assert all(len(call.prompts) == 3 for call in watched.calls)

    with watched_engine(agreeing) as watched:
        run = completed(run_train(tmp_path / "b", policy, **keys, quarantine_after=2))
    assert [len(call.prompts) for call in watched.calls] == [3, 3, 1, 1]
    assert {line["rounds"] for line in run.lines("suspicious_golds.jsonl")} == {2}
    clean = completed(run_train(tmp_path / "c", policy, rows=train_rows(3)))
    assert not clean.lines("suspicious_golds.jsonl")
    assert "Suspicious golds" not in (clean.folder / "report.html").read_text()
