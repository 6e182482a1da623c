import math

import pytest

from nsr_fast.config_groups import ObjectiveKeys
from nsr_fast.objective import Objective, objective_of
from nsr_fast.types import Group, Prompt, Rollout

PROMPT = Prompt("a", "", (1,), None, {})


def weights(objective, verdicts, token_ids=(5, 6)):
    """What the objective writes for one group with these verdicts."""
    rollouts = tuple(
        Rollout(PROMPT, token_ids, (), "", "stop", is_correct=verdict, weight=9.0)
        for verdict in verdicts
    )
    objective.weigh([Group(PROMPT, rollouts)])
    return [rollout.weight for rollout in rollouts]


@pytest.mark.parametrize(
    ("name", "correct", "wrong"),
    [("psr", 1.0, 0.0), ("nsr", 0.0, -1.0), ("w_reinforce", 0.1, -1.0), ("reinforce", 1.0, -1.0)],
)
def test_weights_are_the_table_of_the_paper(name, correct, wrong):
    objective = objective_of(ObjectiveKeys(objective=name))
    assert weights(objective, [True, False, None, True]) == [correct, wrong, 0.0, correct]
    assert weights(objective, [True, False], token_ids=()) == [0.0, 0.0]  # nothing to train on


def test_every_key_of_the_group_is_a_field_of_the_objective():
    keys = {"minibatches": 3, "epsilon": 0.1, "epsilon_high": 0.4, "importance_sampling_cap": 2.0}
    objective = objective_of(ObjectiveKeys(**keys, objective="w_reinforce", psr_weight=0.3))
    assert objective == Objective(0.3, -1.0, 3, 0.1, 0.4, 2.0, 0.0)
    assert objective.needs == {"old"} and Objective.nsr().needs == set()
    assert objective.terms.epsilon_high == 0.4 and objective.terms.sampler_cap == 2.0


def test_w_reinforce_spans_nsr_and_reinforce():
    assert Objective.w_reinforce(0.0) == Objective.nsr()
    assert Objective.w_reinforce(1.0) == Objective.reinforce()


@pytest.mark.parametrize("weights", [(-1.0, -1.0), (1.0, 1.0), (math.nan, -1.0), (1.0, -math.inf)])
def test_objective_refuses_a_wrong_sign_or_value(weights):
    with pytest.raises(ValueError, match="weight: expected a finite number"):
        Objective(*weights)


def test_psr_and_nsr_have_the_same_expected_gradient_on_policy():
    """E[grad log p] = 0 makes E[(r = 1) grad log p] and E[-(r = -1) grad log p] equal."""
    logits, is_correct = [0.3, -1.2, 0.9, 0.1], [True, False, True, False]
    total = sum(map(math.exp, logits))
    p = [math.exp(z) / total for z in logits]

    def expected_gradient(objective):
        weight = weights(objective, is_correct)
        return [
            sum(p[y] * weight[y] * ((y == v) - p[v]) for y in range(len(p))) for v in range(len(p))
        ]

    psr = expected_gradient(Objective.psr())
    assert psr == pytest.approx(expected_gradient(Objective.nsr()), abs=1e-15)
    assert [2 * g for g in psr] == pytest.approx(
        expected_gradient(Objective.reinforce()), abs=1e-15
    )
