"""float32 logits of a bfloat16 policy, at the level of a run: trainer and engine differ by what the
rounding of hidden states leaves, not by the rounding of large logits.

Every logit of these checkpoints has a part of about 40 in common, as large models' have; bfloat16
numbers are .25 apart there.
"""

import json
from importlib.util import find_spec

import pytest
import torch
from cli.tiny_runs import completed, run_train, write_policy
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

ROWS, TOKENS = 320, 259  # of the head: those above TOKENS belong to no token
COMMON, COLUMNS = 40.0, slice(16)
HALF = {"dtype": "bfloat16", "prompts_per_round": 8, "max_completion_length": 24}
ROWS_OF_DATA = [
    {"id": f"t{i}", "problem": "0123456789 abcdefgh" + f"{i}+{i}="[: 3 + i], "answer": "1"}
    for i in range(8)
]
HALF |= {"learning_rate": 1e-6, "drift_limit": 10.0}
NEEDS_VLLM = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
]


def with_common_logit(folder, family):
    """A random checkpoint whose embedding and head have columns of equal numbers: they add the same
    to every logit of a position, and the last norm's weight makes that COMMON."""
    write_policy(folder, family, vocab_size=ROWS, num_hidden_layers=4)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for weight in (model.model.embed_tokens.weight, model.lm_head.weight):
            weight[:, COLUMNS] = 0.04
        for layer in model.model.layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight[COLUMNS] = 0.0
        hidden = model.model(torch.arange(3, 60)[None]).last_hidden_state[..., COLUMNS]
        model.model.norm.weight[COLUMNS] = COMMON / (0.04 * hidden.sum(-1).mean())
    save_file(tensors_of(model), folder / "model.safetensors", {"format": "pt"})
    return folder


def tensors_of(model):
    tied = model.config.tie_word_embeddings
    return {n: t for n, t in model.state_dict().items() if not (tied and n == "lm_head.weight")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """folder(family); made once."""
    made = {}

    def find(family):
        if family not in made:
            made[family] = with_common_logit(tmp_path_factory.mktemp(family), family)
        return made[family]

    return find


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_checkpoint_is_what_the_others_need(folder, family):
    """At the largest logits bfloat16 numbers are .25 apart, and no token is certain."""
    model = AutoModelForCausalLM.from_pretrained(folder(family))
    logits = model(torch.arange(3, 60)[None]).logits[..., :TOKENS]
    assert 32 < logits.max(-1).values.mean() < 48
    assert logits.softmax(-1).max() < 0.1


CASES = [
    pytest.param("transformers", "llama", {}, id="transformers-untied"),
    pytest.param("transformers", "qwen2", {}, id="transformers-tied"),
    pytest.param("transformers", "qwen2", {"minibatches": 2}, id="logprobs-before-the-step"),
    pytest.param("transformers", "qwen2", {"lora_rank": 4}, id="transformers-lora"),
    pytest.param("vllm", "llama", {}, id="vllm-untied", marks=NEEDS_VLLM),
    pytest.param("vllm", "qwen2", {}, id="vllm-tied", marks=NEEDS_VLLM),
    pytest.param("vllm", "llama", {"share_weights": "false"}, id="vllm-own-copy", marks=NEEDS_VLLM),
    pytest.param("vllm", "qwen2", {"lora_rank": 4}, id="vllm-lora", marks=NEEDS_VLLM),
]


@pytest.mark.parametrize(("engine", "family", "keys"), CASES)
def test_float32_logits_keep_trainer_and_engine_together(tmp_path, folder, engine, family, keys):
    def drift(logits_dtype):
        run = completed(
            run_train(
                tmp_path / logits_dtype,
                folder(family),
                engine=engine,
                logits_dtype=logits_dtype,
                rows=ROWS_OF_DATA,
                **HALF,
                **keys,
            )
        )
        tokens = [token for record in run.trained() for token in record["token_ids"]]
        assert max(tokens) < TOKENS and len(tokens) > 100  # the mask of the other rows holds
        return run.metrics[0]["drift_mean"]

    assert drift("float32") < drift("auto") / 10


def test_generation_leaves_the_trainers_head_as_it_was(tmp_path, folder):
    """Two rounds: the second update after a second generation, on the same module."""
    keys = {**HALF, "max_rounds": 2, "logits_dtype": "float32", "learning_rate": 1e-4}
    run = completed(run_train(tmp_path, folder("llama"), **keys))
    assert all(0 < m["drift_mean"] < 2e-3 and m["grad_norm"] > 0 for m in run.metrics)
    assert {t.dtype for t in run.weights(2).values()} == {torch.bfloat16}


def test_a_float32_policy_is_the_same_with_it(tmp_path, folder):
    """dtype auto on the CPU."""
    first, second = (
        completed(run_train(tmp_path / kind, folder("llama"), logits_dtype=kind))
        for kind in ("auto", "float32")
    )
    assert first.metrics[0]["loss"] == second.metrics[0]["loss"]
    for name, tensor in first.weights(1).items():
        assert torch.equal(tensor, second.weights(1)[name])


def test_a_quantised_checkpoint_has_vllms_own_head(tmp_path, folder, monkeypatch):
    policy = write_policy(tmp_path / "quantised")
    path = policy / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    path.write_text(json.dumps(config))
    monkeypatch.setattr("nsr_fast.run.build.resolve_engine", lambda name: name)  # not started
    keys = {"dtype": "bfloat16", "logits_dtype": "float32", "dry_run": "true"}
    refused = run_train(tmp_path / "a", policy, engine="vllm", **keys)
    assert refused.code == 2 and refused.err.startswith("nsr-fast: logits_dtype: expected auto")
    assert "quantised checkpoint" in refused.err and "got float32; remove it" in refused.err
    other = run_train(tmp_path / "b", policy, engine="transformers", **keys)
    assert "logits_dtype" not in other.err
