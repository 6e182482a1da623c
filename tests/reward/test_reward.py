import pytest

from nsr_fast.errors import InputError
from nsr_fast.reward import Reward, load_reward
from nsr_fast.reward.user import UserFunction
from nsr_fast.types import Group, Prompt, Rollout


def group(name, *texts):
    columns = {"id": name, "prompt": f"problem {name}", "answer": "2", "level": 3}
    prompt = Prompt(name, "templated", (1,), "2", columns)
    return Group(
        prompt, tuple(Rollout(prompt, (5, 6), (-0.1, -0.2), text, "stop") for text in texts)
    )


GROUPS = [group("a", r"\boxed{2}", r"\boxed{3}"), group("b", "no box")]


def scored(reward, groups):
    """The rewards of groups, by group; a plain function is a user's."""
    if not isinstance(reward, Reward):
        reward = Reward([(UserFunction(reward), 1.0)])
    scoring = reward.open()
    for one in reversed(groups):  # rollouts finish in any order
        for rollout in one.rollouts:
            scoring.add(rollout)
    scoring.finish(groups)
    return [[rollout.reward for rollout in one.rollouts] for one in groups]


def test_math_rewards_come_group_by_group():
    assert scored(load_reward("math"), GROUPS) == [[1.0, -1.0], [-1.0]]


def test_function_gets_prompts_completions_ids_and_columns():
    seen = {}

    def reward(prompts, completions, completion_ids, **columns):
        seen.update(columns, prompts=prompts, completions=completions, ids=completion_ids)
        return [1, None, 0.5]

    assert scored(reward, GROUPS) == [[1.0, None], [0.5]]
    assert seen["prompts"] == ["problem a", "problem a", "problem b"]
    assert seen["completions"][2] == "no box" and seen["ids"] == [[5, 6]] * 3
    assert seen["answer"] == ["2"] * 3 and seen["level"] == [3] * 3
    assert seen["finish_reason"] == ["stop"] * 3 and "prompt" not in seen


def test_function_without_keyword_columns_gets_those_it_names():
    def reward(completions, level):
        return [len(text) + n for text, n in zip(completions, level)]

    assert scored(reward, GROUPS[1:]) == [[9.0]]


def test_async_function_is_awaited():
    async def reward(completions, **columns):
        return [1.0] * len(completions)

    assert scored(reward, GROUPS) == [[1.0, 1.0], [1.0]]


def raising(completions, **columns):
    return 1 / 0


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (raising, r"test_reward:raising raised ZeroDivisionError.*test_reward\.py:\d+.*row 'a'"),
        (lambda completions, **c: [1.0], "expected 3 rewards, one a completion, got 1"),
        (lambda completions, **c: 1.0, "expected a list, got float"),
        (lambda completions, **c: [1, 1, float("nan")], "row 'b': expected a finite number.*nan"),
        (lambda completions, **c: [1, "x", 1], "row 'a': expected a finite number .*got 'x'"),
    ],
)
def test_bad_functions_end_with_their_name_and_row(reward, message):
    with pytest.raises(InputError, match=message):
        scored(reward, GROUPS)


def test_user_functions_load_from_file_and_module(tmp_path, monkeypatch):
    code = "def good(completions, **columns):\n    return [1.0] * len(completions)\n"
    (tmp_path / "my_reward.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    for spec in (f"{tmp_path}/my_reward.py:good", "my_reward.py:good", "my_reward:good"):
        assert scored(load_reward(spec), GROUPS) == [[1.0, 1.0], [1.0]]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mth", "expected math, countdown.*got 'mth'; nearest: math"),
        ("none.py:f", "no such file none.py"),
        ("no_such_module_x:f", "no module named 'no_such_module_x'"),
        ("bad.py:f", "its import failed: ZeroDivisionError"),
        ("ok.py:goood", "no function 'goood' in .*ok.py; nearest: good"),
        ("ok.py:number", "expected a function, got int"),
        (":f", "module:function or file.py:function"),
    ],
)
def test_unloadable_functions_are_named(tmp_path, monkeypatch, spec, message):
    (tmp_path / "bad.py").write_text("1 / 0\n")
    (tmp_path / "ok.py").write_text("number = 3\ndef good(**columns): ...\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load_reward(spec)


def test_several_functions_with_weights_are_summed(tmp_path):
    code = (
        "async def has_box(completions, **columns):\n"
        "    return ['boxed' in text for text in completions]\n"
        "def none(completions):\n    return [None] * len(completions)\n"
        "def short(completions):\n    return [1.0]\n"
    )
    (tmp_path / "more.py").write_text(code)
    reward = load_reward(f"math, {tmp_path}/more.py:has_box * 0.25, {tmp_path}/more.py:none")
    assert scored(reward, GROUPS) == [[1.25, -0.75], [-1.0]]
    assert scored(load_reward(f"{tmp_path}/more.py:none * 2"), GROUPS[1:]) == [[None]]
    with pytest.raises(InputError, match=r"more:short: expected 3 rewards, .* got 1"):
        scored(load_reward(f"math, {tmp_path}/more.py:short"), GROUPS)
    with pytest.raises(InputError, match=r"expected name \* number, got 'math \* x'"):
        load_reward("math * x")


def test_the_extraction_rule_is_a_setting():
    groups = [group("a", "so it is 2", r"\boxed{2", "the answer is 2")]
    for extract, expected in (
        ("paper", [1.0, 1.0, 1.0]),
        ("lenient", [-1.0, -1.0, 1.0]),
        ("boxed", [-1.0, -1.0, -1.0]),
    ):
        assert scored(load_reward("math", extract=extract), groups) == [expected]
    with pytest.raises(InputError, match="extract: expected one of boxed, lenient, paper"):
        load_reward("math", extract="last")
    assert scored(load_reward("math"), groups) == [[-1.0, -1.0, -1.0]]


def test_several_functions_overlap_and_keep_their_metrics(tmp_path):
    (tmp_path / "own.py").write_text(
        "def none(completions):\n    return [None] * len(completions)\n"
        "async def long(completions):\n    return [len(text) for text in completions]\n"
        "def bad(completions):\n    return 1 / 0\n"
    )
    reward = load_reward(f"math, {tmp_path}/own.py:long * 0.5, {tmp_path}/own.py:none")
    before = reward.statistics().get("verify/correct", 0.0)
    assert scored(reward, GROUPS) == scored(reward, GROUPS[::-1])[::-1] == [[5.5, 3.5], [2.0]]
    first = GROUPS[0].rollouts[0]
    assert first.is_correct and list(first.reward_parts.values()) == [1.0, 9.0, None]
    assert reward.statistics()["verify/correct"] == before + 2
    with pytest.raises(InputError, match=r"own:bad raised ZeroDivisionError.*row 'a'"):
        scored(load_reward(f"math, {tmp_path}/own.py:bad"), GROUPS)


def test_a_part_starts_on_a_rollout_as_it_is_added():
    """math judges what it is given before finish: the work overlaps the generation."""
    reward = load_reward("math")
    before = reward.statistics().get("verify/in_worker", 0.0)
    groups = [group("c", r"\boxed{\sqrt{3}+\sqrt{11}}")]
    scoring = reward.open()
    scoring.add(groups[0].rollouts[0])
    assert reward.statistics()["verify/in_worker"] == before + 1
    scoring.finish(groups)
    assert groups[0].rollouts[0].reward == -1.0


def test_signs_and_the_mask_of_completions_without_an_end():
    def reward(completions):
        return [2.5, -0.5, None, 1.0, 1.0]

    one = group("a", *"vwxyz")
    one.rollouts[3].finish_reason, one.rollouts[4].finish_reason = "length", "cut"
    for mask, length in ((False, 1.0), (True, None)):
        parts = Reward([(UserFunction(reward), 1.0)], mask_truncated=mask)
        assert scored(parts, [one]) == [[2.5, -0.5, None, length, None]]
        signs = [rollout.is_correct for rollout in one.rollouts]
        assert signs == [True, False, None, None if mask else True, None]
    scoring = parts.open(mask_truncated=False)  # an evaluation
    for rollout in one.rollouts:
        scoring.add(rollout)
    scoring.finish([one])
    assert one.rollouts[3].reward == 1.0


def test_each_part_checks_the_rows():
    rows = [{"id": "a", "answer": "2"}, {"id": "b", "answer": ""}, {"id": "c", "answer": "3,2>5"}]
    with pytest.raises(
        InputError, match=r"1 of 3 answers cannot be used .*1 empty.* rows 'b'; .*drop_bad"
    ):
        load_reward("math, countdown").check_rows(rows)
    with pytest.raises(InputError, match=r"row 'a': answer: expected .*numbers"):
        load_reward("math, countdown").check_rows(rows, drop_bad_golds=True)
    kept = load_reward("math, countdown * 2").check_rows(rows[1:], drop_bad_golds=True)
    assert kept == rows[2:]


def test_a_reward_is_a_function_for_trl(tmp_path):
    (tmp_path / "mine.py").write_text("def n(prompts, level):\n    return level\n")
    reward = load_reward(f"math, {tmp_path}/mine.py:n * 0.1")
    columns = {"answer": ["2", "3"], "level": [1, 2], "trainer_state": object()}
    assert reward(["p", "q"], [r"\boxed{2}", "no"], [[1], [2]], **columns) == [1.1, -0.8]
    assert reward([], [], []) == []
    assert reward.name == reward.__name__ == "math + mine:n"
    with pytest.raises(InputError, match="math needs a column answer"):
        load_reward("math")(["p"], ["x"], [[1]])
