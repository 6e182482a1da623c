"""offload and activation_offload of whole runs: where they lead, and the bits of a plain run."""

import importlib

import pytest
import torch
from cli import seams
from cli.tiny_runs import completed, run_train, write_policy
from torch.autograd.graph import saved_tensors_hooks

CHECKPOINTED = {"gradient_checkpointing": "true"}
EVERYTHING = {**CHECKPOINTED, "offload": "gradients", "activation_offload": "true"}
SEVERAL_PASSES = {"max_rounds": 2, "prompts_per_round": 4, "micro_batch_tokens": 24}


@pytest.fixture(scope="module", params=["qwen2", "llama"])  # a tied and an untied head
def policy(tmp_path_factory, request):
    return write_policy(tmp_path_factory.mktemp("policy"), request.param)


def replace_name(monkeypatch, name, make):
    """The function `name` becomes make(function)."""
    module, attribute = name.rsplit(".", 1)
    owner = importlib.import_module(module)
    monkeypatch.setattr(owner, attribute, make(getattr(owner, attribute)))


@pytest.fixture
def seen(monkeypatch):
    """What a run did, by torch's own sign where there is one."""
    found = {"host steps": 0, "hooks": 0, "contexts": 0}

    def counted(key, real, counts=lambda *_: True):
        def call(*args, **options):
            found[key] += counts(*args)
            return real(*args, **options)

        return call

    replace_name(monkeypatch, seams.HOST_STEP, lambda real: counted("host steps", real))
    register = torch.nn.Parameter.register_post_accumulate_grad_hook
    monkeypatch.setattr(
        torch.nn.Parameter, "register_post_accumulate_grad_hook", counted("hooks", register)
    )
    is_ours = lambda self, *_: type(self) is saved_tensors_hooks  # noqa: E731 (not checkpointing's)
    enter = saved_tensors_hooks.__enter__
    monkeypatch.setattr(saved_tensors_hooks, "__enter__", counted("contexts", enter, is_ours))
    return found


@pytest.mark.parametrize(
    ("settings", "has_host_steps", "has_hooks", "has_contexts"),
    [
        ({}, False, False, False),
        ({"offload": "optimizer"}, True, False, False),
        ({"offload": "gradients"}, True, True, False),
        (CHECKPOINTED, False, False, False),
        ({**CHECKPOINTED, "activation_offload": "true"}, False, False, True),
        (EVERYTHING, True, True, True),
    ],
)
def test_each_key_reaches_its_place(
    policy, tmp_path, seen, settings, has_host_steps, has_hooks, has_contexts
):
    done = completed(run_train(tmp_path, policy, **SEVERAL_PASSES, **settings))
    num_tensors = len(done.weights(2))
    assert seen["host steps"] == 2 * num_tensors * has_host_steps
    assert seen["hooks"] == num_tensors * has_hooks
    assert (seen["contexts"] > 2) == has_contexts  # several passes a round
    has_offload = any("offload" in key for key in settings)
    assert ("offload: this run is on the CPU" in done.out) == has_offload


@pytest.mark.parametrize("minibatches", [1, 2])
def test_two_rounds_with_everything_on_have_the_bits_of_the_plain_run(
    policy, tmp_path, minibatches
):
    rounds = {**SEVERAL_PASSES, "minibatches": minibatches, "max_grad_norm": 0.05}
    plain = completed(run_train(tmp_path / "plain", policy, **rounds))
    ours = completed(run_train(tmp_path / "ours", policy, **rounds, **EVERYTHING))
    for before, after in zip(plain.metrics, ours.metrics, strict=True):
        for key in before.keys() | after.keys():
            is_clock = key.startswith("time/") or key in ("round_time", "tokens_per_s")
            is_measure = key in ("memory/peak_bytes", "memory/predicted_peak_bytes")
            assert is_clock or is_measure or before[key] == after[key], key
    assert plain.metrics[0]["grad_norm"] > 0.05  # clipped
    weights = ours.weights(2)
    assert all(torch.equal(w, weights[name]) for name, w in plain.weights(2).items())
    states = [
        torch.load(run.checkpoint(2) / "trainer_state.pt")["optimizer"] for run in (plain, ours)
    ]
    for name, state in states[0]["parameters"].items():
        other = states[1]["parameters"][name]
        assert state.keys() == other.keys()
        assert torch.equal(state["exp_avg"], other["exp_avg"])
        assert torch.equal(state["exp_avg_sq"], other["exp_avg_sq"])
