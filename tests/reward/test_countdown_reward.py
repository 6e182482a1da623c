"""The Countdown verifier: exact, each number once, no eval."""

import random
from fractions import Fraction
from itertools import permutations, product

import pytest
from corpus import MISTAKES, mistaken_steps
from problems import SPLITS, random_problem

from nsr_fast.errors import InputError
from nsr_fast.reward import load_reward
from nsr_fast.reward.countdown import is_solution, parse_problem

NUMBERS, TARGET = (25, 7, 3), 54


@pytest.mark.parametrize(
    "completion",
    [
        "25-7=18,18*3=54",
        "25 - 7 = 18, 3*18 = 54 ",
        "(25-7)*3",
        "(25-7)*3=54",
        "3*(25-7)",
        "I try 25+7=32. <answer>(25 − 7) × 3 = 54</answer>",
        "((((25))-7)*(3))",
    ],
)
def test_solution_is_accepted(completion):
    assert is_solution(completion, NUMBERS, TARGET)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "54",
        "25-7=18",  # 3 is left over
        "25-7=18,18*3=55",
        "25-7=18,18+3=54",  # false equation
        "25-7=18,18*3=54,",
        "25-7=18,18*3",  # a trace states its results
        "25-7=18,18*3=54=54",
        "25-7=18,25+3=28",  # 25 twice
        "25*3=75,75-7=68,68-14=54",  # a number that is not given
        "(25-7)*3+0",
        "25-7*3",
        "(25-7*3",
        "25-7)*3",
        "(25-7)**3",
        "25 7 3",
        "__import__('os')",
        "<answer>25-7</answer>",
        "(25-7)*3 = 54 <answer>no</answer>",
        "(" * 5000 + "25",
        "(" * 200 + "25-7" + ")" * 200 + "*3",
        "9" * 1999,
    ],
)
def test_everything_else_is_refused(completion):
    assert not is_solution(completion, NUMBERS, TARGET)


def test_values_are_fractions_and_may_be_negative():
    assert is_solution("8/(3-8/3)", (3, 8, 8, 3), 24)
    assert not is_solution("8/(3-8/3)", (3, 8, 8), 24)
    assert is_solution("3/(7-20/3)", (3, 7, 20, 3), 9)
    assert is_solution("3-7=-4,-4+12=8", (3, 7, 12), 8)
    assert not is_solution("7/(3-3)", (7, 3, 3), 0)


def test_repeated_number_may_be_used_as_often_as_given():
    assert is_solution("5*5=25,25+5=30", (5, 5, 5), 30)
    assert not is_solution("5*5=25,25+5=30", (5, 5), 30)


def test_verifier_agrees_with_brute_force_over_all_expressions():
    """(a op b) op c and a op (b op c) for every order: text evaluated by Python, in fractions."""
    numbers, target = (2, 6, 3), 4
    for (a, b, c), p, q in product(permutations(numbers), "+-*/", "+-*/"):
        for text in (f"({a}{p}{b}){q}{c}", f"{a}{p}({b}{q}{c})", f"{a}{p}{b}{q}{c}"):
            fractions = text
            for number in numbers:
                fractions = fractions.replace(str(number), f"Fraction({number})")
            assert is_solution(text, numbers, target) == (_value(fractions) == target), text


def _value(expression: str) -> Fraction | None:
    try:
        return eval(expression, {"Fraction": Fraction})
    except ZeroDivisionError:
        return None


def test_solution_trees_verify_and_mistaken_traces_do_not():
    rng = random.Random(0)
    for index in range(300):
        problem, steps = random_problem(rng, SPLITS[index % 3])
        assert is_solution(",".join(map(str, steps)), problem.numbers, problem.target)
        steps = mistaken_steps(rng, problem, MISTAKES[index % len(MISTAKES)])
        assert not is_solution(",".join(map(str, steps)), problem.numbers, problem.target)


def test_reward_reads_mapping_and_text_answers():
    answers = [{"numbers": [25, 7, 3], "target": 54}, "25,7,3>54", "25,7,3>55"]
    rewards = load_reward("countdown")(["p"] * 3, ["(25-7)*3"] * 3, [[1]] * 3, answer=answers)
    assert rewards == [1.0, 1.0, -1.0]


@pytest.mark.parametrize("answer", [7, None, "54", "a,b>3", {"numbers": [1]}, {"target": 3}])
def test_unreadable_answer_is_named(answer):
    with pytest.raises(ValueError, match="answer: expected"):
        parse_problem(answer)


def test_missing_answer_column_is_named():
    with pytest.raises(ValueError, match="answer: expected a column"):
        load_reward("countdown")(["p"], ["1"], [[1]])


def test_rows_without_a_problem_are_named_at_load():
    rows = [{"id": "good", "answer": "25,7,3>54"}, {"id": "bad", "answer": "32"}]
    assert load_reward("countdown").check_rows(rows[:1]) == rows[:1]
    with pytest.raises(InputError, match=r"row 'bad': answer: expected .*numbers.* got '32'"):
        load_reward("countdown").check_rows(rows, drop_bad_golds=True)
