import math

import pytest

from nsr_fast.objective import Objective, by_name


@pytest.mark.parametrize(
    ("name", "correct", "wrong"),
    [("psr", 1.0, 0.0), ("nsr", 0.0, -1.0), ("w_reinforce", 0.1, -1.0), ("reinforce", 1.0, -1.0)],
)
def test_sequence_weight_is_the_table_of_the_paper(name, correct, wrong):
    objective = by_name(name)
    assert objective.sequence_weight(1.0) == correct
    assert objective.sequence_weight(0.25) == correct
    assert objective.sequence_weight(-1.0) == wrong
    assert objective.sequence_weight(0.0) == wrong
    assert objective.sequence_weight(None) == 0.0


def test_w_reinforce_spans_nsr_and_reinforce():
    assert Objective.w_reinforce(0.0) == Objective.nsr()
    assert Objective.w_reinforce(1.0) == Objective.reinforce()


@pytest.mark.parametrize("weights", [(-1.0, -1.0), (1.0, 1.0), (math.nan, -1.0), (1.0, -math.inf)])
def test_objective_refuses_a_wrong_sign_or_value(weights):
    with pytest.raises(ValueError, match="weight: expected a finite number"):
        Objective(*weights)


def test_unknown_name_and_nan_reward_are_errors():
    with pytest.raises(ValueError, match="psr, nsr, w_reinforce, reinforce, got 'nrs'"):
        by_name("nrs")
    with pytest.raises(ValueError, match="NaN"):
        Objective.nsr().sequence_weight(math.nan)


def test_psr_and_nsr_have_the_same_expected_gradient_on_policy():
    """E[grad log p] = 0 makes E[(r = 1) grad log p] and E[-(r = -1) grad log p] equal."""
    logits, is_correct = [0.3, -1.2, 0.9, 0.1], [True, False, True, False]
    total = sum(map(math.exp, logits))
    p = [math.exp(z) / total for z in logits]

    def expected_gradient(objective):
        weight = [objective.sequence_weight(1.0 if c else -1.0) for c in is_correct]
        return [
            sum(p[y] * weight[y] * ((y == v) - p[v]) for y in range(len(p))) for v in range(len(p))
        ]

    psr = expected_gradient(Objective.psr())
    assert psr == pytest.approx(expected_gradient(Objective.nsr()), abs=1e-15)
    assert [2 * g for g in psr] == pytest.approx(
        expected_gradient(Objective.reinforce()), abs=1e-15
    )
