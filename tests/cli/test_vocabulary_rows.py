"""Rows of the head that belong to no token: never sampled, never trained, whatever the engine."""

from importlib.util import find_spec

import pytest
import torch
from cli.tiny_runs import completed, run_train
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.checkpoints import byte_tokenizer, family_config

TOKENS, ROWS = 259, 320
NAMES = {"llama": ("lm_head.weight",), "qwen2": ("model.embed_tokens.weight",)}
KEYS = {"max_completion_length": 12, "learning_rate": 1e-3, "weight_decay": 0.1}


def write_padded(folder, family):
    """A random checkpoint of 320 rows whose unused ones are the likeliest of all."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(family_config(family, ROWS), dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight[TOKENS:] *= 20.0
    model.generation_config.eos_token_id = [2]
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def sampled(run):
    return [token for record in run.trained() for token in record["token_ids"]]


@pytest.mark.parametrize("family", ["llama", "qwen2"])  # untied, tied
def test_fifty_rounds_give_them_no_mass_and_leave_their_bits(tmp_path, family):
    folder = write_padded(tmp_path / "model", family)
    run = completed(run_train(tmp_path / "a", folder, max_rounds=50, save_rounds=50, **KEYS))
    tokens = sampled(run)
    assert len(run.metrics) == 50 and max(tokens) < TOKENS and len(tokens) > 2000
    assert max(m["drift_max"] for m in run.metrics) < 1e-4  # over the masked softmax, both
    before, after = load_file(folder / "model.safetensors"), run.weights(50)
    for name in NAMES[family]:
        assert torch.equal(before[name][TOKENS:], after[name][TOKENS:])
        assert not torch.equal(before[name][:TOKENS], after[name][:TOKENS])
    assert "vocabulary: 61 of 320 rows of the head belong to no token" in run.out


def test_several_steps_a_round_use_the_same_rows(tmp_path):
    """The logprobs before the first step are of the masked softmax too: no ratio is clipped."""
    folder = write_padded(tmp_path / "model", "llama")
    keys = {**KEYS, "minibatches": 2, "learning_rate": 1e-9}
    run = completed(run_train(tmp_path / "a", folder, **keys))
    assert run.metrics[0]["clip_fraction"] == 0 and run.metrics[0]["drift_max"] < 1e-4


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_samples_none_and_its_logprobs_are_the_masked_ones(tmp_path):
    folder = write_padded(tmp_path / "model", "llama")
    run = completed(run_train(tmp_path / "a", folder, engine="vllm", max_rounds=3, **KEYS))
    assert max(sampled(run)) < TOKENS
    assert max(m["drift_max"] for m in run.metrics) < 1e-4
