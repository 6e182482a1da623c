from itertools import combinations
from math import comb

import numpy as np
import pytest

from nsr_fast.evaluate import paired_difference, pass_at_k, pass_at_k_curve


@pytest.mark.parametrize("num_samples", [1, 2, 5, 8])
def test_pass_at_k_matches_all_subsets(num_samples):
    for num_correct in range(num_samples + 1):
        is_correct = [i < num_correct for i in range(num_samples)]
        for k in range(1, num_samples + 1):
            hits = [any(subset) for subset in combinations(is_correct, k)]
            expected = sum(hits) / len(hits)
            assert pass_at_k(num_samples, num_correct, k) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("num_correct", [0, 1, 17, 255, 256])
@pytest.mark.parametrize("k", [1, 64, 255, 256])
def test_pass_at_k_is_stable_at_256_samples(num_correct, k):
    exact = 1 - comb(256 - num_correct, k) / comb(256, k)
    assert pass_at_k(256, num_correct, k) == pytest.approx(exact, abs=1e-13)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="expected"):
        pass_at_k(n, c, k)


def test_curve_is_the_mean_over_problems_inside_its_interval():
    counts = [0, 3, 8, 16, 5, 1]
    curve = pass_at_k_curve(counts, 16)
    assert curve.k == (1, 2, 4, 8, 16)
    assert curve.pass_at_k[0] == pytest.approx(sum(counts) / 16 / 6)
    for k, mean, low, high in zip(*(curve.k, curve.pass_at_k, curve.low, curve.high)):
        assert mean == pytest.approx(np.mean([pass_at_k(16, c, k) for c in counts]))
        assert 0 <= low <= mean <= high <= 1


def test_curve_interval_matches_the_normal_width_for_many_problems():
    rng = np.random.default_rng(1)
    counts = rng.binomial(32, rng.beta(2, 3, size=400))
    curve = pass_at_k_curve(counts, 32, [1])
    standard_error = np.std(counts / 32, ddof=1) / np.sqrt(400)
    assert curve.high[0] - curve.low[0] == pytest.approx(2 * 1.96 * standard_error, rel=0.08)


def test_interval_collapses_when_every_problem_is_equal():
    curve = pass_at_k_curve([4, 4, 4], 8, [1])
    assert (curve.low[0], curve.high[0]) == pytest.approx((0.5, 0.5))


def test_seeds_are_averaged_before_the_bootstrap():
    one, two = pass_at_k_curve([2, 6], 8, [1]), pass_at_k_curve([[0, 8], [4, 4]], 8, [1])
    assert two.pass_at_k == pytest.approx(one.pass_at_k)
    assert (two.low, two.high) == (pytest.approx(one.low), pytest.approx(one.high))


def test_paired_difference_is_narrower_than_two_separate_intervals():
    rng = np.random.default_rng(2)
    before = rng.binomial(64, rng.beta(0.5, 1, size=100))
    after = np.minimum(before + 3, 64)
    difference = paired_difference(before, after, 64, 1)
    assert difference.mean == pytest.approx(np.mean(after - before) / 64)
    assert 0 < difference.low <= difference.mean <= difference.high < 0.06
    assert paired_difference(before, before, 64, 4).high == 0


def test_paired_difference_refuses_other_problems():
    with pytest.raises(ValueError, match="same problems"):
        paired_difference([1, 2], [1, 2, 3], 8, 1)
