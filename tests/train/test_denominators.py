"""What a response counts reaches the gradient, whatever the packing: against full logits."""

import dataclasses

import pytest
import torch
from rollouts import make_rollouts
from train.test_step import CPU, PLAIN_TERMS, TEMPERATURE, full_logits, gradients, load

from nsr_fast.model.batch import pack

LENGTHS = [7, 19, 33, 5]
SCALES = {
    "token_mean": [1 / 64] * 4,
    "sequence_mean": [1 / (4 * length) for length in LENGTHS],
    "constant": [1 / (40 * 4)] * 4,
}


@pytest.mark.parametrize("entropy_coef", [0.0, 0.05])
@pytest.mark.parametrize("name", SCALES)
def test_gradient_is_that_of_the_formula_for_every_packing(checkpoint, name, entropy_coef):
    model, rollouts = load(checkpoint("qwen2")), make_rollouts(LENGTHS)
    objective = dataclasses.replace(
        PLAIN_TERMS, denominator=name, max_completion_length=40, entropy_coef=entropy_coef
    )
    loss = torch.zeros((), dtype=torch.float64)
    for (rollout, chosen, entropy), scale in zip(full_logits(model, rollouts), SCALES[name]):
        loss -= scale * (rollout.weight * chosen.sum() + entropy_coef * entropy.sum())
    model.zero_grad()
    loss.backward()
    expected = {key: p.grad.clone() for key, p in model.named_parameters()}
    for budget in (1000, 24):
        got = gradients(model, pack(rollouts, budget, CPU), objective=objective)
        for key, value in expected.items():
            assert (got[key] - value).norm() <= 2e-6 * value.norm(), (key, budget)
    assert TEMPERATURE == 0.9  # that of full_logits
