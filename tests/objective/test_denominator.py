"""Denominators by hand, and packings that must or must not matter."""

import pytest

from nsr_fast.objective.denominator import (
    constant,
    reference_row_mean,
    sequence_mean,
    token_mean,
)


def test_by_hand():
    assert token_mean([1, 3]) == [1 / 4, 1 / 4]
    assert sequence_mean([1, 3]) == [1 / 2, 1 / 6]
    assert constant([1, 3], 8) == [1 / 16, 1 / 16]
    assert reference_row_mean([(1, 3), (4,)]) == [[2 / 3 / 4] * 2, [1 / 3 / 4]]
    assert reference_row_mean([(1,), (3, 4)]) == [[1 / 3], [2 / 3 / 7] * 2]


def test_dropped_rollouts_count_where_their_number_is_given():
    assert token_mean([1, 3], tokens=10) == [1 / 10] * 2
    assert sequence_mean([1, 3], responses=4) == [1 / 4, 1 / 12]
    assert constant([1, 3], 8, responses=5) == [1 / 40] * 2
    assert reference_row_mean([(2,)], minibatch_rows=8) == [[1 / 16]]


def test_a_response_without_a_token_counts_nothing():
    assert token_mean([0, 2]) == [0.0, 1 / 2]
    assert sequence_mean([0, 2]) == [0.0, 1 / 2]
    assert constant([0, 2], 4) == [0.0, 1 / 4]
    assert reference_row_mean([(0,), (2, 0)]) == [[0.0], [2 / 3 / 2, 0.0]]
    for empty in (token_mean([]), sequence_mean([]), constant([], 4), reference_row_mean([])):
        assert empty == []


def test_a_loss_of_one_is_its_own_mean():
    """A loss of 1 on every token: each mean is 1, Dr.GRPO's the share of the longest in use."""
    lengths = (5, 1, 9)

    def total(scales):
        return sum(n * scale for n, scale in zip(lengths, scales))

    assert total(token_mean(lengths)) == pytest.approx(1.0)
    assert total(sequence_mean(lengths)) == pytest.approx(1.0)
    assert total(constant(lengths, 10)) == pytest.approx(15 / 30)
    packs = reference_row_mean([lengths[:2], lengths[2:]])
    assert total([*packs[0], *packs[1]]) == pytest.approx(1.0)


def test_only_the_reference_code_s_mean_sees_the_packing():
    lengths = [5, 1, 9, 3]
    for rule in (token_mean, sequence_mean, lambda x: constant(x, 12)):
        moved = rule([lengths[i] for i in (2, 0, 3, 1)])
        assert moved == [rule(lengths)[i] for i in (2, 0, 3, 1)]
    one, two = reference_row_mean([lengths]), reference_row_mean([lengths[:1], lengths[1:]])
    assert one[0] == token_mean(lengths)
    assert one[0] != [*two[0], *two[1]]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: token_mean([4, 5], tokens=8), "tokens: expected at least the 9 that are here"),
        (lambda: sequence_mean([4, 5], responses=1), "responses: expected at least the 2"),
        (lambda: constant([4, 5], 4), "max_completion_length: expected at least the 5"),
        (lambda: reference_row_mean([[4], [5]], 1), "minibatch_rows: expected at least the 2"),
    ],
)
def test_a_count_below_what_is_here_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
