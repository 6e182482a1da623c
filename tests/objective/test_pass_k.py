"""Pass@k weights against every subset of k, drawn one by one."""

from itertools import combinations

import numpy as np
import pytest
from rule_groups import group as group_of
from rule_groups import of_rewards, of_verdicts, rollout, weights

from nsr_fast.evaluate.pass_at_k import pass_at_k
from nsr_fast.objective.group_relative import LeaveOneOut
from nsr_fast.objective.pass_k import BestOfGroup, PassAtK, Pkpo

VERDICTS = [[True, False, False, False, False], [True, True, False, False, False, True]]
GRADED = [0.5, -1.0, 0.25, 0.25, 2.0, -0.125]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("verdicts", VERDICTS)
def test_pass_at_k_training_is_the_mean_over_all_subsets(verdicts, k):
    solved = {s: any(verdicts[i] for i in s) for s in combinations(range(len(verdicts)), k)}
    rate = np.mean(list(solved.values()))
    assert rate == pytest.approx(pass_at_k(len(verdicts), sum(verdicts), k))
    scale = np.std(list(solved.values())) + 1e-6
    expected = [
        np.mean([(x - rate) / scale for s, x in solved.items() if i in s])
        for i in range(len(verdicts))
    ]
    assert weights(PassAtK(k), of_verdicts(verdicts)) == pytest.approx(expected, abs=1e-9)


def test_pass_at_k_training_by_hand():
    """One of four, k = 2: R = 1/2, s = 1/2; correct 1, wrong (1/2 - 2/3) / (1/2)."""
    found = weights(PassAtK(2, epsilon=0.0), of_verdicts([True, False, False, False]))
    assert found == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3], abs=1e-15)


def test_pass_at_k_training_leaves_solved_and_hopeless_groups():
    for verdicts in ([False] * 5, [True] * 5, [True, True, True, False]):  # fewer than 2 wrong
        assert weights(PassAtK(2), of_verdicts(verdicts)) == [0.0] * len(verdicts)
    assert weights(PassAtK(8), of_verdicts([True, False])) == [0.0, 0.0]  # k counts as 2
    assert weights(PassAtK(8), of_verdicts([None, None])) == [0.0, 0.0]


def subsets_with(i, count, k):
    return [s for s in combinations(range(count), k) if i in s]


def by_subsets(values, k, baseline):
    """The paper's s_i as sums over subsets, times n."""
    count, found = len(values), []
    total = len(list(combinations(range(count), k)))
    for i in range(count):
        own = sum(max(values[j] for j in s) for s in subsets_with(i, count, k)) / total
        if baseline == "loo_minus_one":
            less = [max(values[j] for j in s if j != i) for s in subsets_with(i, count, k)]
            own -= sum(less) / total
        if baseline == "loo":
            rest = [x for j, x in enumerate(values) if j != i]
            own -= sum(by_subsets(rest, k, "none")) / (count - 1) ** 2  # n s_j of n - 1 others
        found.append(count * own)
    return found


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("baseline", ["none", "loo", "loo_minus_one"])
@pytest.mark.parametrize("values", [GRADED, [1.0, -1.0, -1.0, 1.0, -1.0, -1.0]])
def test_pkpo_is_the_sum_over_all_subsets(values, baseline, k):
    if k == 1 and baseline == "loo_minus_one":
        expected = weights(LeaveOneOut(), of_rewards(values))
    else:
        expected = by_subsets(values, k, baseline)
    found = weights(Pkpo(k, baseline), of_rewards(values))
    assert found == pytest.approx(expected, abs=1e-12)


def test_pkpo_by_hand():
    """Rewards 1, 0, 0, k = 2: of 3 pairs the first is in 2, each raised by 1: 3 * 2 / 3."""
    assert weights(Pkpo(2), of_rewards([1, 0, 0])) == pytest.approx([2.0, 0.0, 0.0])
    assert weights(Pkpo(2, "none"), of_rewards([1, 0, 0])) == pytest.approx([2.0, 1.0, 1.0])


def test_pkpo_without_a_comparison():
    for baseline in ("loo", "loo_minus_one"):
        assert weights(Pkpo(2, baseline), of_rewards([1])) == [0.0]
        assert weights(Pkpo(2, baseline), of_verdicts([None])) == [0.0]
    two = of_rewards([1, -1])  # loo needs n > k
    assert weights(Pkpo(2, "loo"), two) == weights(Pkpo(2), two) == [4.0, 0.0]
    assert weights(Pkpo(8), of_rewards([-1] * 4)) == [0.0] * 4


def test_grpo_passk_trains_the_lead_of_the_best():
    found = weights(BestOfGroup(std=False), of_rewards([0.5, 2.0, -1.0]))
    assert found == [0.0, 1.5, 0.0]
    scale = np.std([0.5, 2.0, -1.0], ddof=1) + 1e-6
    assert weights(BestOfGroup(), of_rewards([0.5, 2.0, -1.0])) == pytest.approx(
        [0, 1.5 / scale, 0]
    )
    assert weights(BestOfGroup(), of_rewards([1, 1, -1])) == [0.0] * 3
    assert weights(BestOfGroup(), of_rewards([1])) == [0.0]


def test_unscored_rollouts_are_in_no_subset():
    for rule in (PassAtK(2), Pkpo(2), BestOfGroup()):
        judged = [rollout(True), rollout(False), rollout(False)]
        alone = weights(rule, group_of(*judged))
        assert weights(rule, group_of(rollout(None), *judged)) == [0.0, *alone]


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_k_is_a_whole_number(k):
    for rule in (PassAtK, Pkpo):
        with pytest.raises(ValueError, match="k: expected a whole number >= 1"):
            rule(k)
    with pytest.raises(ValueError, match="baseline: expected none, loo or loo_minus_one"):
        Pkpo(2, "mean")
