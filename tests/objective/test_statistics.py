"""What a rule reads of a group, at its edges."""

import math

import pytest
from rule_groups import group, rollout

from nsr_fast.objective.statistics import confidence, mean, scored, share_correct, std


def test_statistics_of_nothing_and_of_equal_values_are_0():
    assert mean([]) == share_correct([]) == std([]) == std([7.0]) == std([0.1] * 3) == 0.0
    assert std([1.0, 2.0, 4.0]) == pytest.approx(math.sqrt(7 / 3))


def test_unscored_rollouts_are_left_out():
    right, wrong = rollout(True), rollout(False)
    assert scored(group(right, rollout(None), wrong)) == [right, wrong]
    assert share_correct([right, wrong, right]) == pytest.approx(2 / 3)


def test_confidence_lies_between_0_and_1():
    assert confidence(rollout(True, tokens=0)) == 0.0
    assert confidence(rollout(True, logprob=1e-6)) == 1.0  # a sampler's rounding
    assert confidence(rollout(True, logprob=-1e5)) == 0.0
