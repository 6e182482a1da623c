import json
import os

import pytest

from nsr_fast.errors import InputError
from nsr_fast.reward import Reward, load_reward
from nsr_fast.reward.code import CodeReward, sandbox, verify_code
from nsr_fast.reward.code.blocks import program_of
from nsr_fast.reward.code.outputs import outputs_match
from nsr_fast.reward.code.sandbox import Limits, backend_problems
from nsr_fast.reward.code.tests import Call, read_tests, rows_with_tests
from nsr_fast.reward.verdict import Score, Verdict

QUICK = Limits(time_limit_s=1.5)
ADD = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]
SUM = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5\n", "output": "10\n"}]
isolated = pytest.mark.skipif(
    all(backend_problems().values()), reason=f"no sandbox here: {backend_problems()}"
)


def fenced(program):
    return f"Here it is.\n```python\n{program}\n```\n"


def fake_bwrap(monkeypatch, folder, script):
    """Puts a bubblewrap into PATH that runs this shell script instead."""
    path = folder / "bwrap"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("program", "tests", "verdict", "reason"),
    [
        ("def add(a, b):\n    return a + b", ADD, "correct", "equal"),
        ("def add(a, b):\n    return a - b", ADD, "wrong", "different"),
        ("print(sum(map(int, input().split())))", SUM, "correct", "equal"),
        ("print(sum(map(int, input().split())) % 10)", SUM, "wrong", "different"),
        (
            "import sys\nprint(sum(map(int, sys.stdin.read().split())))\nsys.exit(0)",
            SUM,
            "correct",
            "equal",
        ),
        ("print(1 +", SUM, "wrong", "raised"),
        ("import os\nos._exit(0)", ADD, "wrong", "different"),
        ("def add(a, b):\n    import sys\n    sys.exit(0)", ADD, "wrong", "different"),
        ("while True: pass", SUM, "wrong", "deadline"),
        ("while True: print('x' * 999)", SUM, "wrong", "too_much_output"),
        ("x = bytearray(10 * 1024**3)\nprint(3)", SUM, "wrong", "raised"),
        ("import os\nwhile True: os.fork()", SUM, "wrong", "raised"),
        (
            "import socket\nsocket.create_connection(('1.1.1.1', 53), 1)\nprint(3)",
            SUM,
            "wrong",
            "raised",
        ),
    ],
)
def test_programs_get_their_verdict(program, tests, verdict, reason, backend):
    score = verify_code(fenced(program), tests, limits=QUICK, backend=backend)
    assert (score.verdict.value, score.reason) == (verdict, reason)


@isolated
def test_reward_scores_rows_and_equal_programs_once():
    reward = Reward([(CodeReward(limits=QUICK, num_workers=2), 1.0)])
    good, bad = fenced("def add(a, b):\n    return a + b"), fenced("def add(a, b): ...")
    rewards = reward(["p"] * 4, [good, bad, good, "no program"], [[]] * 4, tests=[ADD] * 4)
    assert rewards == [1.0, -1.0, 1.0, -1.0]
    assert reward.statistics()["code/correct"] == 1.0
    assert reward([""], [good], [[]], tests=["?"]) == [None]
    mixed = {"tests": [None, ADD], "answer": [json.dumps(ADD), "4"]}
    assert reward([""] * 2, [good, bad], [[]] * 2, **mixed) == [1.0, -1.0]
    with pytest.raises(InputError, match="column tests in every row"):
        reward([""], [good], [[]], answer=[None])


@isolated
def test_an_equal_program_is_run_again_for_other_tests():
    reward = Reward([(CodeReward(limits=QUICK, num_workers=2), 1.0)])
    program = fenced("def add(a, b):\n    return a + b")
    tests = [ADD, ["assert add(1, 2) == 4"], ADD]
    assert reward(["p"] * 3, [program] * 3, [[]] * 3, tests=tests) == [1.0, -1.0, 1.0]
    assert reward.statistics() == {
        "code/correct": 1.0,
        "code/reason/different": 1.0,
        "code/reason/equal": 1.0,
        "code/wrong": 1.0,
    }


def test_a_sandbox_that_fails_leaves_the_rollout_unscored(monkeypatch, tmp_path):
    fake_bwrap(monkeypatch, tmp_path, "echo no room >&2\nexit 1")
    score = verify_code(fenced("print(3)"), SUM, backend="bwrap")
    assert score == Score(Verdict.UNSCORED, "crash: no room")
    monkeypatch.setattr(sandbox, "backend_problems", lambda: {"bwrap": None})
    reward = Reward([(CodeReward(), 1.0)])
    assert reward([""], [fenced("print(3)")], [[]], tests=[SUM]) == [None]
    assert reward.statistics() == {"code/reason/crash": 1.0, "code/unscored": 1.0}


def test_a_program_that_ends_its_supervisor_is_wrong(monkeypatch, tmp_path):
    fake_bwrap(monkeypatch, tmp_path, "printf ' '")  # it had started, and reports nothing
    score = verify_code(fenced("print(3)"), SUM, backend="bwrap")
    assert score == Score(Verdict.WRONG, "killed")


def test_without_a_sandbox_code_is_refused_unless_unsafe(monkeypatch):
    monkeypatch.setattr(sandbox, "backend_problems", lambda: {"bwrap": "not installed"})
    with pytest.raises(InputError, match=r"bwrap: not installed.*set unsafe: true"):
        sandbox.chosen_backend()
    assert sandbox.chosen_backend(unsafe=True) == "none"


def test_the_unsafe_setting_reaches_the_code_reward(monkeypatch):
    asked = []
    choose = "nsr_fast.reward.code.reward.chosen_backend"
    monkeypatch.setattr(choose, lambda *, unsafe: asked.append(unsafe) or "none")
    load_reward("code")
    load_reward("code", unsafe=True)
    assert load_reward("code, math", unsafe=True) is not None
    assert asked == [False, True, True]


@pytest.mark.parametrize(
    ("tests", "expected"),
    [
        (ADD, ((), (), tuple(ADD))),
        (SUM, (("1 2\n", "5 5\n"), ("3\n", "10\n"), ())),
        (json.dumps({"inputs": ["1"], "outputs": ["2"]}), (("1",), ("2",), ())),
        ("assert f(1) == 2", ((), (), ("assert f(1) == 2",))),
        (
            {"test": "def check(f): assert f(1)", "entry_point": "g"},
            ((), (), ("def check(f): assert f(1)", "check(g)")),
        ),
    ],
)
def test_layouts_of_tests(tests, expected):
    found = read_tests(tests)
    assert (found.inputs, found.outputs, found.statements) == expected


def test_calls_by_name_are_calls_and_odd_names_refused():
    found = read_tests({"inputs": [[1, 2]], "outputs": [[3]], "fn_name": "add"})
    assert found.calls == (Call((1, 2), {}, [3]),) and found.may_be_wrapped
    for tests in ({"inputs": [[1]], "outputs": [[3]], "fn_name": "os.system"}, [], {"a": 1}, "{}"):
        with pytest.raises(ValueError, match="tests:"):
            read_tests(tests)


def test_the_program_is_the_last_python_block():
    text = "```python\na\n```\nbetter\n```py\nb = 1\n```\nrun\n```\n$ out\n```\n"
    assert program_of(text) == "b = 1"
    assert program_of("<think>```python\na\n```</think>none") is None
    assert program_of("```\nx\n```") == "x"


def test_outputs_match_token_by_token():
    assert outputs_match("1  2\n3\n\n", "1 2\n3") and outputs_match("0.3000000001", "0.3")
    assert not outputs_match("1 2", "1 3") and not outputs_match("12", "1 2")
    assert not outputs_match("1000000000000000001", "1000000000000000000")
    assert not outputs_match("nan", "0.5") and not outputs_match("", "0.5")


def test_tests_that_cannot_be_read_are_found_at_load():
    rows = [
        {"id": "a", "tests": ADD},
        {"id": "b", "tests": "no test"},
        {"id": "c", "answer": json.dumps({"inputs": ["1"], "outputs": ["2"]})},
        {"id": "d", "tests": '{"inputs": ['},
        {"id": "e", "tests": {"inputs": ["1"], "outputs": []}},
        {"id": "f", "tests": ["assert add(1, == 2"]},
    ]
    with pytest.raises(InputError, match=r"4 of 6 tests cannot be read: rows 'b', 'd', 'e', 'f'"):
        rows_with_tests(rows)
    kept = rows_with_tests(rows, drop_bad_golds=True)
    assert [row["id"] for row in kept] == ["a", "c"]
