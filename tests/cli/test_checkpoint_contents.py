"""What a run's checkpoint holds beside the new weights is what its source held."""

import importlib
import json

import pytest
import torch
from cli import seams
from cli.tiny_runs import completed, run_train, write_policy
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from nsr_fast.run.checkpoint import damage

REFUSED = {"do_sample": False, "temperature": 0.6, "eos_token_id": [2, 60], "pad_token_id": 0}
ENGINES = (pytest.param("vllm", marks=pytest.mark.vllm), "transformers")
HEADER_BYTES = 8192


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(("family", "use_cache"), [("qwen2", True), ("llama", False)])
@pytest.mark.parametrize("engine", ENGINES)
def test_config_is_the_sources(tmp_path, family, use_cache, engine):
    source = write_policy(tmp_path / "source", family)
    kept = config_of(source) | {"use_cache": use_cache}
    (source / "config.json").write_text(json.dumps(kept))
    run = completed(run_train(tmp_path, source, engine=engine))
    assert config_of(run.checkpoint(1)) == kept
    assert kept["dtype"] == "float32" and kept["architectures"]


def test_config_names_the_dtype_of_the_weights_beside_it(tmp_path):
    source = write_policy(tmp_path / "source")
    half = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    half.save_pretrained(source)
    assert config_of(source)["dtype"] == "bfloat16"
    for dtype in ("float32", "bfloat16"):
        run = completed(run_train(tmp_path / dtype, source, dtype=dtype))
        assert config_of(run.checkpoint(1))["dtype"] == dtype
        assert {w.dtype for w in run.weights(1).values()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_generation_config_that_transformers_refuses_to_save_is_kept(tmp_path, engine):
    source = write_policy(tmp_path / "source")
    (source / "generation_config.json").write_text(json.dumps(REFUSED))
    kept = GenerationConfig.from_pretrained(source)
    with pytest.raises(ValueError, match="temperature"):
        kept.save_pretrained(tmp_path / "never")
    run = completed(run_train(tmp_path, source, engine=engine))
    saved = json.loads((run.checkpoint(1) / "generation_config.json").read_text())
    assert {name: saved[name] for name in REFUSED} == REFUSED
    assert GenerationConfig.from_pretrained(run.checkpoint(1)).to_dict() == kept.to_dict()


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("engine", ENGINES)
def test_every_tensor_is_stored_once_and_is_the_live_one(tmp_path, family, engine, monkeypatch):
    module, name = seams.BUILD_LEARNER.rsplit(".", 1)
    real, built = getattr(importlib.import_module(module), name), []
    monkeypatch.setattr(seams.BUILD_LEARNER, lambda *args: built.append(real(*args)) or built[-1])
    run = completed(run_train(tmp_path, write_policy(tmp_path / "source", family), engine=engine))
    live, saved = dict(built[0].policy.named_parameters()), run.weights(1)
    assert live.keys() == saved.keys() and ("lm_head.weight" in saved) == (family == "llama")
    assert all(torch.equal(live[name], saved[name]) for name in live)
    size = (run.checkpoint(1) / "model.safetensors").stat().st_size
    assert 0 < size - sum(tensor.nbytes for tensor in live.values()) < HEADER_BYTES
    again = AutoModelForCausalLM.from_pretrained(run.checkpoint(1))
    is_tied = again.lm_head.weight is again.model.embed_tokens.weight
    assert is_tied == (family == "qwen2")


def test_another_head_in_the_file_than_a_tied_config_says_is_kept(tmp_path):
    source = write_policy(tmp_path / "source", "qwen2")
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    run = completed(run_train(tmp_path, source))
    saved = run.weights(1)
    assert saved.keys() == weights.keys()
    again = AutoModelForCausalLM.from_pretrained(run.checkpoint(1))
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(again.get_parameter(name), saved[name])
        assert (saved[name] - weights[name]).abs().max() < 0.01  # a step of 1e-3, not the other's


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_an_adapters_checkpoint_is_sealed_and_readable_by_all(tmp_path, quantize):
    source = write_policy(tmp_path / "source", intermediate_size=128)
    run = completed(run_train(tmp_path, source, lora_rank=4, quantize=quantize))
    files = {path.name: path for path in run.checkpoint(1).iterdir()}
    assert damage(run.checkpoint(1)) is None and "model.safetensors" not in files
    manifest = json.loads(files["manifest.json"].read_text())
    assert manifest["round"] == 1
    assert (
        manifest["files"].keys()
        == files.keys() - {"manifest.json"}
        >= {
            "adapter_model.safetensors",
            "adapter_config.json",
            "trainer_state.pt",
        }
    )
    modes = {path.stat().st_mode for path in files.values()}
    assert modes == {(source / "config.json").stat().st_mode}
