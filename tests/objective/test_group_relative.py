"""Group and round statistics against hand-worked numbers and independent loops in numpy."""

import math

import numpy as np
import pytest
from rule_groups import group, of_rewards, of_verdicts, rollout, weights

from nsr_fast.objective.group_relative import (
    AsymRE,
    BatchNormalized,
    GroupRelative,
    LeaveOneOut,
    MaxRL,
    SoftOverlong,
    topr,
)

REWARDS = [1.0, -1.0, 0.25, -1.0, 0.5]


def test_grpo_divides_by_the_unbiased_deviation():
    """1, 0, 0, 0: mean 1/4, variance (9 + 3) / 16 / 3 = 1/4."""
    found = weights(GroupRelative(), of_rewards([1, 0, 0, 0]))
    assert found == pytest.approx([0.75 / 0.500001] + [-0.25 / 0.500001] * 3, abs=1e-15)
    array = np.array(REWARDS)
    expected = (array - array.mean()) / (array.std(ddof=1) + 1e-6)
    assert weights(GroupRelative(), of_rewards(REWARDS)) == pytest.approx(expected, abs=1e-14)


def test_dr_grpo_is_the_distance_from_the_mean():
    assert weights(GroupRelative(std=False), of_rewards([1, 0, 0, 0])) == [0.75] + [-0.25] * 3


def test_rloo_is_the_distance_from_the_mean_of_the_others():
    others = [np.mean(REWARDS[:i] + REWARDS[i + 1 :]) for i in range(len(REWARDS))]
    expected = [r - o for r, o in zip(REWARDS, others)]
    assert weights(LeaveOneOut(), of_rewards(REWARDS)) == pytest.approx(expected, abs=1e-15)


def test_ngrpo_learns_from_all_wrong_groups():
    """Eight of -1 with one virtual +1: mean -7/9, variance 4/9, so -1/3 each."""
    rule = GroupRelative(top_reward=1.0)
    all_wrong = weights(rule, of_rewards([-1] * 8))
    assert all_wrong == pytest.approx([-(2 / 9) / (2 / 3 + 1e-6)] * 8, abs=1e-14)
    assert weights(rule, of_rewards([1] * 8)) == [0.0] * 8
    mixed = np.array([1.0, 1.0, -1.0, 1.0])  # the last one is virtual
    expected = (mixed - 0.5) / (mixed.std(ddof=1) + 1e-6)
    assert weights(rule, of_rewards([1, 1, -1])) == pytest.approx(expected[:3], abs=1e-14)


@pytest.mark.parametrize(
    ("length", "penalty"), [(1, 0.0), (6, 0.0), (7, -0.25), (9, -0.75), (10, -1.0), (99, -1.0)]
)
def test_soft_overlong_penalty_grows_over_the_buffer(length, penalty):
    assert SoftOverlong(10, 4).penalty(length) == penalty
    assert SoftOverlong(10, 4, factor=0.5).penalty(length) == penalty / 2
    assert SoftOverlong(10, 10).penalty(length) == -min(length, 10) / 10


def test_dapo_lowers_long_rewards_before_the_statistics():
    """Lengths 2, 9, 2 under a maximum of 10 with a buffer of 4: rewards 1, 0.25, -1."""
    judged = group(rollout(True), rollout(True, tokens=9), rollout(False))
    rule = GroupRelative(std=False, overlong=SoftOverlong(10, 4))
    mean = 0.25 / 3
    assert weights(rule, judged) == pytest.approx([1 - mean, 0.25 - mean, -1 - mean], abs=1e-15)


def whitened(rewards, counts):
    """verl's masked_whiten on one number a token."""
    tokens = np.repeat(rewards, counts)
    return (np.array(rewards) - tokens.mean()) / np.sqrt(tokens.var(ddof=1) + 1e-8)


def test_reinforce_pp_whitens_over_the_tokens_of_the_round():
    first = group(rollout(True, tokens=3), rollout(False, tokens=1))
    second = group(rollout(True, tokens=2), rollout(None, tokens=50), rollout(True, tokens=5))
    found = weights(BatchNormalized(), first, second)
    a, b, c, d = whitened([1.0, -1.0, 1.0, 1.0], [3, 1, 2, 5])
    assert found[0] == pytest.approx([a, b], abs=1e-14)
    assert found[1] == pytest.approx([c, 0.0, d], abs=1e-14)


def test_reinforce_pp_baseline_takes_the_mean_of_the_group_first():
    first = group(rollout(True, tokens=3), rollout(False, tokens=1))
    second = group(rollout(True, tokens=2), rollout(True, tokens=5))
    found = weights(BatchNormalized(baseline=True), first, second)
    expected = whitened([1.0, -1.0, 0.0, 0.0], [3, 1, 2, 5])
    assert found[0] + found[1] == pytest.approx(expected, abs=1e-14)


def test_maxrl_divides_by_the_share_of_correct_ones():
    judged = of_verdicts([True, False, False, None, False])
    assert weights(MaxRL(), judged) == [3.0, -1.0, -1.0, 0.0, -1.0]
    assert weights(MaxRL(), of_verdicts([False] * 3)) == [0.0] * 3
    assert weights(MaxRL(), of_verdicts([True] * 3)) == [0.0] * 3


def test_asymre_lowers_the_baseline():
    assert weights(AsymRE(-0.5), of_rewards([1, -1])) == [1.5, -0.5]
    assert weights(AsymRE(), of_rewards([-1, -1])) == pytest.approx([0.1, 0.1])  # raised, all wrong


def test_topr_has_signs_and_a_baseline():
    assert weights(topr(), of_verdicts([True, False, None])) == [1.0, -1.0, 0.0]
    assert weights(topr(-1.0), of_verdicts([True, False])) == [2.0, 0.0]
    assert weights(topr(0.25), of_verdicts([True, False])) == [0.75, -1.25]


@pytest.mark.parametrize(
    "rule", [GroupRelative(), GroupRelative(std=False), LeaveOneOut(), BatchNormalized(), MaxRL()]
)
@pytest.mark.parametrize("reward", [0.1, -0.3, 1.0])
def test_equal_rewards_weigh_exactly_nothing(rule, reward):
    """0.1 three times has a mean that is not 0.1; over 1e-6 such a rounding would be a weight."""
    assert weights(rule, of_rewards([reward] * 3)) == [0.0] * 3
    assert weights(rule, of_rewards([reward])) == [0.0]


def test_unscored_rollouts_are_in_no_statistic():
    for rule in (GroupRelative(), LeaveOneOut(), GroupRelative(top_reward=1.0), AsymRE(), MaxRL()):
        judged = [rollout(True), rollout(False), rollout(False)]
        alone = weights(rule, group(*judged))
        assert weights(rule, group(judged[0], rollout(None), *judged[1:], rollout(None))) == [
            *(alone[0], 0.0),
            *(*alone[1:], 0.0),
        ]


def test_a_rollout_without_a_token_counts_but_is_not_trained():
    judged = group(rollout(True), rollout(False, tokens=0), rollout(False))
    assert weights(GroupRelative(std=False), judged) == pytest.approx([4 / 3, 0.0, -2 / 3])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SoftOverlong(10, 11), "buffer: expected 1..max_length=10, got 11"),
        (lambda: AsymRE(0.1), "offset: expected a finite number <= 0"),
        (lambda: AsymRE(-math.inf), "offset: expected a finite number <= 0"),
        (lambda: topr(1.5), "baseline: expected a number in"),
    ],
)
def test_bad_numbers_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()
