"""Every setting changes what it says: one run a setting, its numbers against a formula.

The update's settings are compared with the first round written out in float64
(reference_update.py), which must differ from the one with the default value. The others are read
from the run's files, from what the reward was called with, or from what the engine was asked.
"""

import dataclasses

import pytest
import torch
from cli.reference_update import Rules, reference_update
from cli.tiny_runs import STOPS, completed, run_train, train_rows, watched_engine, write_policy
from safetensors.torch import load_file

from tests.checkpoints import byte_tokenizer

EVAL_ROWS = [{"id": f"e{i}", "prompt": f"{i}-1=", "answer": str(i - 1)} for i in range(5)]
OBJECTIVES = {"psr": (1.0, 0.0), "nsr": (0.0, -1.0), "reinforce": (1.0, -1.0)}
SEVERAL = {"objective": "reinforce", "minibatches": 2, "learning_rate": 1e-2}
# settings of the command line; those in the last column are taken back for the run without them
UPDATES = {
    "objective psr": ({"objective": "psr"}, {"objective": "nsr"}),
    "objective nsr": ({"objective": "nsr"}, {"objective": "reinforce"}),
    "objective reinforce": ({"objective": "reinforce"}, {"objective": "nsr"}),
    "psr_weight": ({"objective": "w_reinforce", "psr_weight": 0.3}, {"psr_weight": 0.1}),
    "temperature": ({"temperature": 0.7}, {"temperature": 1.0}),
    "learning_rate": ({"learning_rate": 2e-3}, {"learning_rate": 1e-3}),
    "warmup_steps": ({"warmup_steps": 4}, {"warmup_steps": 0}),
    "weight_decay": ({"weight_decay": 5.0}, {"weight_decay": 0.01}),
    "max_grad_norm": ({**SEVERAL, "max_grad_norm": 0.01}, {"max_grad_norm": 1.0}),
    "minibatches": ({"minibatches": 3}, {"minibatches": 1}),
    "epsilon": ({**SEVERAL, "epsilon": 0.02}, {"epsilon": 0.2}),
    "epsilon_high": ({**SEVERAL, "epsilon": 0.05, "epsilon_high": 0.6}, {"epsilon_high": None}),
    "entropy_coef": ({"entropy_coef": 0.5}, {"entropy_coef": 0.0}),
    "cap, one step": ({"importance_sampling_cap": 1.2}, {"importance_sampling_cap": None}),
    "cap, two steps": (
        {**SEVERAL, "importance_sampling_cap": 1.2},
        {"importance_sampling_cap": None},
    ),
}


def rules_of(settings):
    names = {field.name for field in dataclasses.fields(Rules)}
    values = {name: value for name, value in settings.items() if name in names}
    objective = settings.get("objective", "nsr")
    positive, negative = OBJECTIVES.get(objective, (settings.get("psr_weight", 0.1), -1.0))
    return Rules(**values, positive_weight=positive, negative_weight=negative)


def sampler_offset(token):
    """What the capped runs add to the sampler's logprob of a token, so that ratios are not 1."""
    return (token % 3 - 1) * 0.7


def shifted(call, stream):
    for prompt, sample, rollout in stream:
        logprob = [
            value + sampler_offset(token)
            for token, value in zip(rollout.token_ids, rollout.sampler_logprob)
        ]
        yield prompt, sample, dataclasses.replace(rollout, sampler_logprob=tuple(logprob))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def run(policy, tmp_path):
    """run(key=value) -> a finished run of the tiny policy."""
    return lambda **settings: completed(run_train(tmp_path, policy, **settings))


def distance(weights, expected):
    """Norm of the difference over all weights."""
    parts = [(weights[name].double() - expected[name]).norm() ** 2 for name in weights]
    return float(torch.stack(parts).sum().sqrt())


@pytest.mark.parametrize("name", UPDATES)
def test_update_is_the_formula_with_this_setting(policy, tmp_path, name):
    settings, without = UPDATES[name]
    has_cap = "importance_sampling_cap" in settings
    if has_cap:
        with watched_engine(shifted):
            done = completed(run_train(tmp_path, policy, drift_limit=2.0, **settings))
    else:
        done = completed(run_train(tmp_path, policy, **settings))
    encode = byte_tokenizer().encode
    expected = reference_update(policy, done.trained(), encode, rules_of(settings), sampler_offset)
    other = reference_update(
        policy, done.trained(), encode, rules_of({**settings, **without}), sampler_offset
    )
    before, after = load_file(policy / "model.safetensors"), done.weights(1)
    step = distance(before, expected.weights)
    assert distance(other.weights, expected.weights) > 0.05 * step  # the setting can be seen
    assert distance(after, expected.weights) < 0.005 * step

    (metrics,) = done.metrics
    rules = rules_of(settings)
    assert metrics["grad_norm"] == pytest.approx(expected.grad_norm, rel=1e-3)
    assert metrics["entropy_trained"] == pytest.approx(expected.entropy_trained, rel=1e-4)
    assert metrics["trained_tokens"] == expected.trained_tokens
    assert metrics["optimizer_steps"] == rules.minibatches
    share = min(1.0, (rules.minibatches + 1) / max(1, rules.warmup_steps))
    assert metrics["learning_rate"] == pytest.approx(rules.learning_rate * share)  # of the next
    assert (metrics["drift_mean"] < 1e-4) != has_cap

    state = torch.load(done.checkpoint(1) / "trainer_state.pt", weights_only=True)
    assert state["round"] == 1
    assert state["optimizer"]["num_steps"] == rules.minibatches
    saved = state["optimizer"]["parameters"]
    assert len(saved) == len(expected.exp_avg)
    for parameter, moment in zip(saved, expected.exp_avg):
        assert parameter["num_steps"] == rules.minibatches
        assert float((parameter["exp_avg"].double() - moment).norm()) <= 5e-3 * moment.norm()
