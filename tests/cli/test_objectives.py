"""Every objective in a run: its weight rule, term, denominator and numbers reach the update."""

import pytest
import torch
from cli.tiny_runs import completed, run_train, write_policy

from nsr_fast.config_objectives import SETTINGS_OF

KEYS = {"prompts_per_round": 3, "num_generations": 6, "max_rounds": 2, "seed": 1}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def weights(policy, tmp_path_factory):
    """weights(objective, key=value) -> what two rounds leave of one matrix."""
    made = {}

    def get(name, **keys):
        at = (name, *sorted(keys.items()))
        if at not in made:
            folder = tmp_path_factory.mktemp(name)
            run = completed(run_train(folder, policy, objective=name, **(KEYS | keys)))
            assert all(m["trained_tokens"] > 0 for m in run.metrics), name
            made[at] = run.weights(2)["model.layers.0.mlp.up_proj.weight"]
        return made[at]

    return get


def test_each_leaves_weights_of_its_own(weights):
    """One step a round, one denominator: what differs is the weights of the rollouts."""
    same_rule = {"cispo": "grpo"}
    found = {
        name: weights(name, minibatches=1, denominator="token_mean")
        for name in SETTINGS_OF
        if name not in same_rule
    }
    names = list(found)
    for i, a in enumerate(names):
        for b in names[:i]:
            assert not torch.equal(found[a], found[b]), (a, b)
    for name, other in same_rule.items():
        assert torch.equal(weights(name, minibatches=1, denominator="token_mean"), found[other])


def test_the_settings_it_is_known_with_hold(weights):
    known = {"minibatches": 4, "denominator": "sequence_mean"}
    assert torch.equal(weights("grpo"), weights("grpo", **known))
    for key, value in {"minibatches": 2, "denominator": "token_mean", "epsilon": 1e-4}.items():
        assert not torch.equal(weights("grpo"), weights("grpo", **known | {key: value})), key
    assert not torch.equal(weights("cispo"), weights("grpo", denominator="token_mean"))


def test_numbers_of_the_rule_reach_it(weights):
    plain = {"minibatches": 1}
    two = weights("pkpo", objective_kwargs='{"k": 2}', **plain)
    assert not torch.equal(two, weights("pkpo", **plain))


def test_a_number_it_does_not_have_is_refused(policy, tmp_path):
    run = run_train(tmp_path, policy, objective="rloo", objective_kwargs='{"lambda": 2}')
    assert run.code == 2 and "objective_kwargs: rloo:" in run.err and "lambda" in run.err
    assert not run.folder.exists()


def test_one_that_is_not_there_names_those_that_are(policy, tmp_path):
    run = run_train(tmp_path, policy, objective="gspo")
    assert run.code == 2 and "objective: expected" in run.err and "'dr_grpo'" in run.err
