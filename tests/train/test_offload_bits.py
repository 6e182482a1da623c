"""Updates with memory moved to the host: the bits of the plain update."""

import dataclasses

import pytest
import torch
from policies import freeze, policy_of, tiny
from rollouts import make_rollouts
from transformers import Qwen2Config

from nsr_fast.config_groups import OptimizerKeys
from nsr_fast.memory.offload import ActivationOffload
from nsr_fast.model.batch import minibatches_of
from nsr_fast.objective import Objective
from nsr_fast.train import host_gradients
from nsr_fast.train.optimizer import PolicyOptimizer
from nsr_fast.train.step import update_policy

CPU = torch.device("cpu")
LENGTHS = [7, 19, 33, 5, 12, 30]
BUDGETS = {"one pass": 1000, "three passes": 50}
ON_POLICY = Objective.w_reinforce(entropy_coef=0.01)


def trained(policy, *, offload="none", checkpointing=False, activations=None, passes, minibatches):
    """Two rounds; what they leave, bit by bit."""
    if checkpointing:
        policy.gradient_checkpointing_enable()
    keys = OptimizerKeys(learning_rate=1e-2, max_grad_norm=0.05)
    head = next(n for n, p in policy.named_parameters() if p is policy.lm_head.weight)
    optimizer = PolicyOptimizer(
        policy.named_parameters(), keys, num_rows={head: 250}, offload=offload
    )
    objective = dataclasses.replace(ON_POLICY, minibatches=minibatches)
    metrics = []
    for seed in (0, 1):
        rollouts = make_rollouts(LENGTHS, vocab_size=250, seed=seed)
        batches = minibatches_of(rollouts, minibatches, BUDGETS[passes], CPU)
        assert (len(batches[0]) > 1) == (passes == "three passes")
        options = {"vocab": 250, "activations": activations}
        metrics.append(update_policy(policy, optimizer, batches, objective, 0.9, **options))
    return {
        "metrics": metrics,
        "weights": {name: p.detach() for name, p in policy.named_parameters()},
        "optimizer": optimizer.state_dict(),
    }


def assert_same_bits(found, expected):
    assert found["metrics"] == expected["metrics"]
    assert found["optimizer"]["num_steps"] == expected["optimizer"]["num_steps"] > 0
    for name, weight in expected["weights"].items():
        assert torch.equal(found["weights"][name], weight), name
    assert found["optimizer"]["parameters"].keys() == expected["optimizer"]["parameters"].keys()
    for name, state in expected["optimizer"]["parameters"].items():
        other = found["optimizer"]["parameters"][name]
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(other[key], state[key]), (name, key)
        assert other["num_steps"] == state["num_steps"] and other["master"] is state["master"]


WAYS = {
    "checkpointed": {"checkpointing": True},
    "host optimizer": {"offload": "optimizer"},
    "streamed": {"offload": "gradients"},
    "streamed, checkpointed": {"offload": "gradients", "checkpointing": True},
    "activations": {"checkpointing": True, "activations": True},
    "everything": {"offload": "gradients", "checkpointing": True, "activations": True},
}


@pytest.mark.parametrize("minibatches", [1, 2])
@pytest.mark.parametrize("passes", BUDGETS)
@pytest.mark.parametrize("frozen", [(), ("layers.0.",), ("lm_head", "embed"), ("proj", "norm")])
@pytest.mark.parametrize("is_tied", [True, False])
def test_every_way_has_the_bits_of_the_plain_update(
    is_tied, frozen, passes, minibatches, monkeypatch
):
    monkeypatch.setattr(host_gradients, "_PIECE_BYTES", 4000)  # gradients cross in several pieces
    if is_tied and "proj" in frozen:
        frozen = ("proj",)  # the norms alone, and the embedding
    rounds = {"passes": passes, "minibatches": minibatches}
    start = freeze(tiny(is_tied=is_tied), frozen)
    expected = trained(start, **rounds)
    for options in WAYS.values():
        offload = ActivationOffload() if options.get("activations") else None
        policy = freeze(tiny(is_tied=is_tied), frozen)
        found = trained(policy, **rounds, **{**options, "activations": offload})
        assert_same_bits(found, expected)


def test_bfloat16_steps_of_one_pass_have_the_bits_of_the_plain_update():
    rounds = {"passes": "one pass", "minibatches": 1}
    found = {}
    for offload in ("none", "optimizer", "gradients"):
        policy = tiny(is_tied=True, dtype=torch.bfloat16)
        found[offload] = trained(policy, offload=offload, **rounds)
    for offload in ("optimizer", "gradients"):
        for name, weight in found["none"]["weights"].items():
            assert torch.equal(found[offload]["weights"][name], weight), name
            masters = [found[o]["optimizer"]["parameters"][name]["master"] for o in found]
            assert torch.equal(masters[0], masters[1]) and torch.equal(masters[0], masters[2])
        assert found[offload]["metrics"] == found["none"]["metrics"]


def small_7b(hidden_size, layers):
    """Qwen2.5-7B with every width divided by 3584 / hidden_size: untied, 7 queries a key."""
    return Qwen2Config(
        vocab_size=152064 * hidden_size // 3584,
        hidden_size=hidden_size,
        intermediate_size=18944 * hidden_size // 3584,
        num_hidden_layers=layers,
        num_attention_heads=layers,
        num_key_value_heads=layers // 7,
        tie_word_embeddings=False,
    )


SIZES = [
    pytest.param(224, 7, 10.6e6, id="a few layers"),
    pytest.param(504, 28, 7.6e9 / 50, id="a fiftieth", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("hidden_size", "layers", "count"), SIZES)
def test_a_small_7b_with_everything_on_has_the_bits_of_the_plain_update(hidden_size, layers, count):
    states = []
    for is_on in (False, True):
        policy = policy_of(small_7b(hidden_size, layers))
        assert sum(p.numel() for p in policy.parameters()) == pytest.approx(count, rel=0.1)
        options = {"offload": "gradients", "checkpointing": True} if is_on else {}
        options |= {"activations": ActivationOffload() if is_on else None}
        states.append(trained(policy, **options, passes="three passes", minibatches=1))
    assert_same_bits(states[1], states[0])
