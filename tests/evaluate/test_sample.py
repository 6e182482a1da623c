"""Evaluation: counts problem by problem over several parts, and what unscored completions are."""

import pytest
from cli import seams
from cli.tiny_runs import completed, run_train, write_policy

TOLD = {  # rewards of a problem's four samples before the first round, and after it
    "e0": ([-1.0, -1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]),
    "e1": ([-1.0, 1.0, -1.0, -1.0], [1.0, 1.0, 1.0, 1.0]),
    "e2": ([None, None, None, None], [None, None, None, 1.0]),
    "e3": ([1.0, None, 0.0, 1.0], [0.5, None, 0.0, -2.0]),
    "e4": ([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, None, 1.0]),
}
ROWS = [
    {"id": name, "prompt": f"{name}=", "answer": "7", "before": before, "after": after}
    for name, (before, after) in TOLD.items()
]
TRAIN = [{"id": f"t{i}", "prompt": f"{i}=", "answer": "7", "before": [], "after": []} for i in "12"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


def evaluated(policy, folder, completions_at_once):
    keys = {"rows": TRAIN, "eval_rows": ROWS, "reward": "as_told"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seams.COMPLETIONS_AT_ONCE, completions_at_once)
        return completed(run_train(folder, policy, **keys))


@pytest.fixture(scope="module", params=[4, 8, 1000])  # parts of one, of two and of all problems
def run(request, policy, tmp_path_factory):
    return evaluated(policy, tmp_path_factory.mktemp("evaluated"), request.param)


def test_correct_samples_are_counted_in_the_order_of_the_problems(run):
    before, after = run.evaluations
    assert before["num_correct"] == [0, 1, 0, 2, 4]
    assert after["num_correct"] == [2, 4, 1, 1, 3]


def test_an_evaluation_is_the_same_in_parts_and_whole(run, policy, tmp_path):
    whole = evaluated(policy, tmp_path, 10_000)
    for line, expected in zip(run.evaluations, whole.evaluations, strict=True):
        assert line["entropy"] == pytest.approx(expected["entropy"], rel=1e-6)
        assert line["completion_length_mean"] == expected["completion_length_mean"]
        assert line["pass_at_k"] == expected["pass_at_k"]


def test_entropy_and_length_are_means_over_the_sampled_tokens(run):
    scored = [r for call in run.scored for r in call if r["id"].startswith("e")]
    first = scored[: len(ROWS) * 4]
    tokens = sum(len(record["token_ids"]) for record in first)
    assert run.evaluations[0]["completion_length_mean"] == tokens / (len(ROWS) * 4)
    assert 4.5 < run.evaluations[0]["entropy"] < 6.5  # log 259 = 5.56


def test_summary_shows_before_after_and_the_gain(run):
    """Pass@1: 7/20 -> 11/20. Pass@4: 3/5 -> 1. Pass@2 of c of 4 is 1 - C(4 - c, 2) / 6."""
    lines = run.out.splitlines()
    (title,) = [line for line in lines if line.startswith("Pass@k on")]
    assert title.startswith("Pass@k on 5 problems, 4 samples each")
    head, *rows = lines[lines.index(title) + 1 :][:4]
    assert head.split()[:4] == ["k", "before", "after", "nsr"]
    numbers = [
        [word for word in row.split() if word[0] not in "[" and word[-1] != "]"] for row in rows
    ]
    two = [(0 + 3 + 0 + 5 + 6) / 30, (5 + 6 + 3 + 3 + 6) / 30]
    assert numbers == [
        ["1", "0.350", "0.550", "+0.200"],
        ["2", f"{two[0]:.3f}", f"{two[1]:.3f}", f"{two[1] - two[0]:+.3f}"],
        ["4", "0.600", "1.000", "+0.400"],
    ]
    before, after = (line["entropy"] for line in run.evaluations)
    assert f"entropy of sampled tokens: {before:.3f} -> {after:.3f} nats" in lines
