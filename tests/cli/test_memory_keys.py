"""The memory keys at the level of a run, the verb `plan`, refusals before a weight is loaded."""

import json
import re
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest
import torch
from cli.tiny_runs import completed, run_train, write_policy
from transformers import Qwen2ForCausalLM, Qwen2Model

from nsr_fast.cli import main


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def run(policy, tmp_path):
    return lambda **settings: run_train(tmp_path, policy, overwrite="true", **settings)


def plan(**keys):
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["plan", *(w for k, v in keys.items() for w in (f"--{k}", str(v)))])
    return code, out.getvalue(), err.getvalue()


def test_plan_reads_config_json_only_and_plans_for_a_larger_card(tmp_path, monkeypatch):
    config = {"model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672}
    config |= {"num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8}
    config |= {"vocab_size": 128256, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(torch.cuda, "mem_get_info", None)  # nothing asks a device
    code, out, err = plan(model=tmp_path, device_memory_gb=2000)
    assert (code, err) == (0, "") and "70.554 billion parameters" in out and "on cuda" in out
    assert re.search(r"^always +weights +131\.417$", out, re.MULTILINE)
    code, out, err = plan(model=tmp_path, device_memory_gb=80)
    assert code == 2 and out == "" and "memory: weights of 131.42 GiB" in err
    (tmp_path / "plan.yaml").write_text(f"model: {tmp_path}\ndata: x\noutput_dir: y\n")
    code, out, _ = plan(config=tmp_path / "plan.yaml", device_memory_gb=2000, device="cpu")
    assert code == 0 and "on cpu" in out and "float" not in out
    assert plan(model=tmp_path, device="tpu")[0] == 2
    sizes = {"device_memory_gb": 2000, "max_prompt_length": 60, "max_completion_length": 40}
    sizes |= {"model": tmp_path, "device": "cpu", "dtype": "bfloat16", "micro_batch_tokens": 100}
    for logits_dtype, tile in (("auto", 2 * 100 * 128256), ("float32", 4 * 100 * 128256)):
        _, out, _ = plan(**sizes, logits_dtype=logits_dtype)
        assert re.search(rf"head tile +{tile / 2**30:.3f}$", out, re.MULTILINE)


def test_a_run_shows_its_plan_and_the_measured_peak(run):
    done = completed(run())
    table = done.out[done.out.index("memory: ") :]
    assert re.match(r"memory: [\d.]+ GiB may be used \(free on this machine", table)
    for word in ("weights", "gradients", "activations", "KV cache", "peak", "chosen: micro_batch"):
        assert word in table
    (metrics,) = done.metrics
    assert metrics["memory/micro_batch_tokens"] == 1024
    assert 0 < metrics["memory/largest_pass_tokens"] <= 8 * 12
    # a tiny model: the process itself
    assert 0.2e9 < metrics["memory/peak_bytes"] < 8e9
    assert 0.43e9 < metrics["memory/predicted_peak_bytes"] < 0.6e9
    assert "chosen: micro_batch_tokens" in completed(run(dry_run="true")).out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device_memory_gb": 0.41}, ["reserve of", "device_memory_gb"]),
        (
            {"device_memory_gb": 0.4513, "micro_batch_tokens": 100000, "prompts_per_round": 4000},
            ["activations of a pass of 100,000 tokens", "lower micro_batch_tokens"],
        ),
        (
            {"device_memory_gb": 0.4433, "max_num_seqs": 9000, "prompts_per_round": 9000},
            ["max_num"],
        ),
    ],
)
def test_a_run_that_cannot_fit_is_refused_before_weights_are_loaded(
    run, monkeypatch, settings, words
):
    monkeypatch.setattr(Qwen2ForCausalLM, "from_pretrained", None)
    done = run(**settings)
    assert done.code == 2 and done.err.startswith("nsr-fast: memory: ")
    for word in words:
        assert word in done.err
    assert not done.folder.exists()


def test_device_memory_turns_checkpointing_on(run, monkeypatch):
    """What the model is called with: in the training passes gradients are on."""
    forward, seen = Qwen2Model.forward, []

    def watched(self, *args, **options):
        if torch.is_grad_enabled():
            seen.append(all(layer.gradient_checkpointing for layer in self.layers))
        return forward(self, *args, **options)

    monkeypatch.setattr(Qwen2Model, "forward", watched)

    def norm_of(is_on, **settings):
        seen.clear()
        done = completed(run(prompts_per_round=8, **settings))
        assert set(seen) == {is_on} and f"gradient_checkpointing {str(is_on).lower()}" in done.out
        return done.metrics[0]["grad_norm"]

    small = {"device_memory_gb": 0.4449}
    plain = norm_of(False, device_memory_gb=4)
    assert norm_of(True, **small) == pytest.approx(plain, rel=1e-4)
    given = {"gradient_checkpointing": "false", "micro_batch_tokens": 20}
    assert norm_of(False, **small, **given) == pytest.approx(plain, rel=1e-4)
    assert norm_of(True, gradient_checkpointing="true") == pytest.approx(plain, rel=1e-4)


def test_a_run_survives_an_out_of_memory_and_says_so(run, monkeypatch):
    plain = completed(run(prompts_per_round=4, max_rounds=2))
    forward = Qwen2Model.forward

    def small(self, *, input_ids, **options):
        if torch.is_grad_enabled() and input_ids.shape[1] > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(Qwen2Model, "forward", small)
    done = completed(run(prompts_per_round=4, max_rounds=2))
    first, second = done.metrics
    tokens = first["memory/micro_batch_tokens"]
    assert tokens <= 60 and second["memory/micro_batch_tokens"] <= tokens
    assert first["memory/largest_pass_tokens"] <= tokens
    assert "round 1: out of memory in a pass of" in done.out
    assert f"micro_batch_tokens is {tokens} from here on" in done.out
    for key in ("loss", "grad_norm", "drift_mean", "trained_tokens"):
        assert first[key] == pytest.approx(plain.metrics[0][key], rel=1e-4, abs=1e-7)
