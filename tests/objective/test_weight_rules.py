"""The sign family, its schedules, and what every rule has in common."""

import math

import pytest
from rule_groups import group, of_verdicts, rollout, weights

from nsr_fast.objective.weights import (
    Now,
    Returns,
    Schedule,
    SignWeights,
    Switch,
    nsr,
    nsr_warmup,
    psr,
    reinforce,
    w_reinforce,
)


@pytest.mark.parametrize(
    ("now", "share"),
    [(Now(), 0.0), (Now(1, 5), 0.0), (Now(3, 5), 0.5), (Now(5, 5), 1.0), (Now(9, 5), 1.0)],
)
def test_share_of_the_run_goes_from_0_in_the_first_round_to_1_in_the_last(now, share):
    assert now.share == share


@pytest.mark.parametrize(
    ("schedule", "numbers"),
    [
        (Schedule(0.4), [0.4] * 5),
        (Schedule(0.4, 0.8, "constant"), [0.4] * 5),
        (Schedule(1.0, 0.0), [1.0, 0.75, 0.5, 0.25, 0.0]),
        (Schedule(0.0, 2.0, "cosine"), [0.0, 1 - math.sqrt(0.5), 1.0, 1 + math.sqrt(0.5), 2.0]),
    ],
)
def test_schedules_at_five_rounds(schedule, numbers):
    assert [schedule.at(Now(r, 5)) for r in range(1, 6)] == pytest.approx(numbers, abs=1e-15)


@pytest.mark.parametrize(
    ("rule", "correct", "wrong"),
    [(psr(), 1.0, 0.0), (nsr(), 0.0, -1.0), (w_reinforce(), 0.1, -1.0), (reinforce(), 1.0, -1.0)],
)
def test_sign_weights_are_the_table_of_the_paper(rule, correct, wrong):
    judged = of_verdicts([True, False, None, True])
    assert weights(rule, judged) == [correct, wrong, 0.0, correct]
    assert [r.entropy_share for r in judged.rollouts] == [0.0] * 4
    assert weights(rule, of_verdicts([True, False], tokens=0)) == [0.0, 0.0]


def test_the_verdict_alone_sets_the_sign():
    judged = group(rollout(True, reward=-3.0), rollout(False, reward=2.0))
    assert weights(w_reinforce(0.25), judged) == [0.25, -1.0]


def test_lambda_may_move_over_the_run():
    rule = w_reinforce(Schedule(0.0, 1.0))
    found = [weights(rule, of_verdicts([True, False]), now=Now(r, 3)) for r in (1, 2, 3)]
    assert found == [[0.0, -1.0], [0.5, -1.0], [1.0, -1.0]]


def test_warm_up_is_nsr_and_then_w_reinforce():
    rule = nsr_warmup(0.2, part=0.5)
    found = [weights(rule, of_verdicts([True, False]), now=Now(r, 5))[0] for r in range(1, 6)]
    assert found == [0.0, 0.0, 0.2, 0.2, 0.2]
    assert weights(nsr_warmup(0.2, part=0.0), of_verdicts([True])) == [0.2]
    whole = nsr_warmup(0.2, part=1.0)  # the last round is the second rule's all the same
    found = [weights(whole, of_verdicts([True]), now=Now(r, 3)) for r in (1, 2, 3)]
    assert found == [[0.0], [0.0], [0.2]]


def test_returns_are_the_graded_rewards():
    judged = group(rollout(True, reward=0.7), rollout(False, reward=-0.2), rollout(None))
    assert weights(Returns(), judged) == [0.7, -0.2, 0.0]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SignWeights(-1.0, -1.0), "correct: expected a number >= 0"),
        (lambda: SignWeights(1.0, Schedule(-1.0, 0.5)), "wrong: expected a number <= 0"),
        (lambda: SignWeights(math.nan, -1.0), "start: expected a finite number"),
        (lambda: Schedule(1.0, math.inf), "end: expected a finite number"),
        (lambda: Schedule(1.0, 0.0, "steps"), "shape: expected constant, linear or cosine"),
        (lambda: Switch(psr(), nsr(), 1.5), "part: expected a number in"),
    ],
)
def test_bad_numbers_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()
