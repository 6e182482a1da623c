"""lora_rank, lora_alpha, lora_targets and quantize change the run that they are given to."""

import importlib.util
import json

import pytest
import torch
from cli.adapter_runs import KEYS, load_base, load_plain, logits_of, train_adapters, write_base
from cli.tiny_runs import run_train, watched_engine, write_policy

from nsr_fast.kernels import head_loop
from nsr_fast.types import LINEARS


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture
def run(base, tmp_path):
    return lambda **settings: train_adapters(tmp_path, base, overwrite="true", **settings)


def adapter_config(done):
    return json.loads((done.adapter / "adapter_config.json").read_text())


def test_lora_rank_is_that_of_every_a_and_b(run):
    for rank in (2, 5):
        done = run(lora_rank=rank, lora_alpha=None)
        for name, tensor in done.saved().items():
            assert tensor.shape[0 if "lora_A" in name else 1] == rank, name
        assert (adapter_config(done)["r"], adapter_config(done)["lora_alpha"]) == (rank, rank)


def test_without_it_every_weight_trains(run):
    done = run(lora_rank=None, lora_alpha=None, learning_rate=1e-3)
    assert all(parameter.requires_grad for parameter in done.policy.parameters())
    assert (done.adapter / "model.safetensors").is_file()
    assert not (done.adapter / "adapter_config.json").exists()


def test_lora_alpha_over_the_rank_is_the_scale_of_b_a(run):
    """The trained logits are those of W + alpha / r B A, of this alpha and no other."""
    for alpha, scale in ((None, 1.0), (8, 2.0), (1, 0.25)):
        done = run(lora_alpha=alpha)
        assert adapter_config(done)["lora_alpha"] == (alpha or 4)
        ours, saved = done.logits(), done.saved()
        for factor, is_it in ((scale, True), (2 * scale, False)):
            model = load_plain(done.base)
            with torch.no_grad():
                for name, a in saved.items():
                    if "lora_A" in name:
                        module = name.removeprefix("base_model.model.").partition(".lora_A")[0]
                        b = saved[name.replace("lora_A", "lora_B")]
                        model.get_submodule(module).weight.add_(factor * b @ a)
            assert (float((logits_of(model) - ours).abs().max()) < 1e-5) == is_it


@pytest.mark.parametrize("targets", [None, "q_proj,v_proj", "[down_proj]"])
def test_lora_targets_are_what_is_adapted(run, targets):
    done = run(lora_targets=targets)
    names = {name.split(".")[-3] for name in done.saved()}
    want = set(targets.strip("[]").split(",")) if targets else set(LINEARS)
    assert names == set(adapter_config(done)["target_modules"]) == want


def test_an_unknown_target_is_named(base, tmp_path):
    run = run_train(tmp_path, base, lora_rank=4, lora_targets="q_proj,lm_head")
    assert run.code == 2 and "lora_targets: " in run.err and "'q_proj,lm_head'" in run.err
    assert "expected some of q_proj, k_proj" in run.err


def test_quantize_rounds_the_projections_and_nothing_else(run):
    """B starts at 0: the first round samples from the base, in four bits or whole."""
    still = {"learning_rate": 1e-12, "max_rounds": 1}
    ours = {form: run(quantize=form, **still).logits() for form in ("none", "nf4")}
    done = run(**still)
    for form, logits in ours.items():
        for other in ("none", "nf4"):
            want = logits_of(load_base(done.base, other))
            assert (float((logits - want).abs().max()) < 1e-5) == (form == other)


def test_the_seed_draws_the_adapters(run):
    """Of two seeds, of one twice: the last round's A hold what the first A were."""
    still = {"learning_rate": 1e-12, "max_rounds": 1}
    first, again, other = (run(seed=seed, **still).saved() for seed in (4, 4, 5))
    for name, tensor in first.items():
        assert torch.equal(again[name], tensor)
        assert "lora_B" in name or not torch.allclose(other[name], tensor, atol=1e-3)


def test_the_first_round_samples_from_the_base(base, tmp_path):
    seen = []
    for folder, keys in (("plain", {}), ("lora", KEYS)):
        with watched_engine() as watched:
            run_train(tmp_path / folder, base, **{**keys, "max_rounds": 1})
        (call,) = watched.of_training()
        seen.append([(r.token_ids, r.sampler_logprob) for r in call.given.values()])
    assert len(seen[0]) == len(seen[1]) == 8
    for (ids, logprobs), (same_ids, same_logprobs) in zip(*seen):
        assert ids == same_ids and logprobs == pytest.approx(same_logprobs, abs=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "llama"])  # tied, untied
def test_no_gradient_of_the_head_is_made(tmp_path, monkeypatch, family):
    """The kernel is asked for hidden rows alone, and nothing of the base has a .grad."""
    asked = []
    real = head_loop.weight_grad_
    monkeypatch.setattr(head_loop, "weight_grad_", lambda *a, **k: asked.append(1) or real(*a, **k))
    base = write_base(tmp_path / "base", family)
    full = {"lora_rank": None, "lora_alpha": None, "learning_rate": 1e-3}
    train_adapters(tmp_path / "full", base, **full)
    assert asked
    asked.clear()
    done = train_adapters(tmp_path / "lora", base)
    assert not asked and done.run.metrics[0]["grad_norm"] > 0
    assert done.policy.lm_head.weight.grad is None
    assert done.policy.model.embed_tokens.weight.grad is None


@pytest.mark.parametrize(
    ("memory", "count"),
    [({}, 28), ({"offload": "gradients"}, 28), ({"gradient_checkpointing": "true"}, 28)],
)
def test_the_optimizer_holds_the_adapters_alone(run, memory, count):
    plain, done = run(), run(**memory)
    state = torch.load(done.adapter / "trainer_state.pt", weights_only=True)["optimizer"]
    assert len(state["parameters"]) == count
    assert all(".lora_" in name for name in state["parameters"])
    for name, tensor in plain.saved().items():  # and what it makes of them does not depend on it
        assert torch.allclose(done.saved()[name], tensor, atol=1e-6)


def refused(run, *parts):
    assert run.code == 2 and len(run.err.splitlines()) == 1, run.err
    for part in parts:
        assert part in run.err, run.err


def test_quantize_without_adapters(base, tmp_path):
    run = run_train(tmp_path, base, quantize="nf4", dry_run="true")
    refused(run, "quantize: nf4 freezes the weights", "set lora_rank")


def test_quantize_without_bitsandbytes(base, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "bitsandbytes" else find(n, *a)
    )
    run = run_train(tmp_path / "nf4", base, quantize="nf4", lora_rank=4, dry_run="true")
    refused(run, "quantize: bitsandbytes is not installed", "nsr_fast[qlora]")
    assert run_train(tmp_path / "lora", base, lora_rank=4, dry_run="true").code == 0


@pytest.mark.parametrize(
    ("changes", "name", "width"),
    [
        ({"intermediate_size": 96}, "intermediate_size", 96),
        ({"hidden_size": 96}, "hidden_size", 96),
        ({"num_attention_heads": 1, "head_dim": 96}, "attention heads x head_dim", 96),
    ],
)
def test_quantize_of_widths_that_are_no_whole_blocks(tmp_path, changes, name, width):
    sizes = {"intermediate_size": 128, **changes}
    policy = write_policy(tmp_path / "policy", "llama", **sizes)
    run = run_train(tmp_path / "a", policy, quantize="nf4", lora_rank=4, dry_run="true")
    refused(run, f"blocks of 64, and {name} is {width}", "set quantize: none")


def test_quantize_of_a_quantised_checkpoint(tmp_path):
    policy = write_base(tmp_path / "policy")
    config = json.loads((policy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (policy / "config.json").write_text(json.dumps(config))
    run = run_train(tmp_path / "a", policy, quantize="nf4", lora_rank=4, dry_run="true")
    refused(run, "quantize: the checkpoint is quantised already")
