"""Countdown problems: deterministic, disjoint splits, files the trainer reads."""

import json
import random

import pytest
from corpus import corpus_example
from problems import (
    MAX_NUMBER,
    MAX_VALUE,
    MIN_TARGET,
    Problem,
    distinct_problems,
    main,
    random_problem,
)

from nsr_fast.data import read_rows
from nsr_fast.reward.countdown import is_solution, parse_problem


def test_problems_repeat_for_the_same_seed_and_differ_for_another():
    assert distinct_problems("eval", 20, 3) == distinct_problems("eval", 20, 3)
    assert distinct_problems("eval", 20, 3) != distinct_problems("eval", 20, 4)


def test_split_ignores_the_order_of_the_numbers():
    a, b = Problem((3, 25, 7), 54), Problem((25, 7, 3), 54)
    assert (a.key, a.split) == (b.key, b.split)
    assert a.key == "3,7,25>54"


def test_splits_are_disjoint_and_within_bounds():
    keys = {}
    for split in ("train", "eval"):
        problems = distinct_problems(split, 300, 0)
        assert len({p.key for p in problems}) == 300
        assert all(1 <= n <= MAX_NUMBER for p in problems for n in p.numbers)
        assert all(MIN_TARGET <= p.target <= MAX_VALUE for p in problems)
        keys[split] = {p.key for p in problems}
    rng = random.Random(0)
    keys["pretrain"] = {random_problem(rng, "pretrain")[0].key for _ in range(2000)}
    assert not keys["train"] & keys["eval"]
    assert not keys["pretrain"] & (keys["train"] | keys["eval"])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_corpus_holds_the_stated_share_of_mistakes(share):
    rng = random.Random(1)
    examples = [corpus_example(rng, share) for _ in range(400)]
    assert all(problem.split == "pretrain" for problem, _ in examples)
    wrong = sum(not is_solution(trace, p.numbers, p.target) for p, trace in examples)
    assert abs(wrong / 400 - share) < 0.08


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_command_writes_rows_the_loader_reads(tmp_path, name):
    path = tmp_path / name
    assert main(["--split", "eval", "--num", "12", "--seed", "5", "--out", str(path)]) == 0
    first = path.read_bytes()
    main(["--split", "eval", "--num", "12", "--seed", "5", "--out", str(path)])
    assert path.read_bytes() == first
    rows = read_rows(path)
    problems = distinct_problems("eval", 12, 5)
    assert [row["id"] for row in rows] == [p.key for p in problems]
    assert [row["prompt"] for row in rows] == [p.prompt for p in problems]
    assert [parse_problem(row["answer"]) for row in rows] == [
        (p.numbers, p.target) for p in problems
    ]
    assert json.dumps(rows[0]["answer"])


def test_command_refuses_no_rows(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--split", "eval", "--num", "0", "--out", str(tmp_path / "x.jsonl")])
    assert exit_info.value.code == 2
    assert "--num: expected at least 1, got 0" in capsys.readouterr().err
