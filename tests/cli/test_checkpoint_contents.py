"""What a run's checkpoint holds beside the new weights is what its source held."""

import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cli import seams
from cli.tiny_runs import Run, completed, run_train, write_policy
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig

from nsr_fast.run.checkpoint import damage

REFUSED = {"do_sample": False, "temperature": 0.6, "eos_token_id": [2, 60], "pad_token_id": 0}
HEADER_BYTES = 8192


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@dataclass(frozen=True)
class Saved:
    """A run of one round, its policy in memory, and the folder that it started from."""

    source: Path
    run: Run
    policy: nn.Module

    @property
    def folder(self):
        return self.run.checkpoint(1)


KINDS = [("qwen2", "transformers"), ("llama", "transformers")]
KINDS += [
    pytest.param(kind, marks=pytest.mark.vllm) for kind in (("qwen2", "vllm"), ("llama", "vllm"))
]


@pytest.fixture(scope="module", params=KINDS, ids=str)
def saved(request, tmp_path_factory):
    """Of a tied head that caches and an untied one that does not, with sampling settings that
    transformers does not like."""
    family, engine = request.param
    folder = tmp_path_factory.mktemp("saved")
    source = write_policy(folder / "source", family)
    config = config_of(source) | {"use_cache": family == "qwen2"}
    (source / "config.json").write_text(json.dumps(config))
    (source / "generation_config.json").write_text(json.dumps(REFUSED))
    module, name = seams.BUILD_LEARNER.rsplit(".", 1)
    real, built = getattr(importlib.import_module(module), name), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seams.BUILD_LEARNER, lambda *args: built.append(real(*args)) or built[-1])
        run = completed(run_train(folder, source, engine=engine))
    return Saved(source, run, built[0].policy)


def test_config_is_the_sources(saved):
    config = config_of(saved.folder)
    assert config == config_of(saved.source)
    assert config["dtype"] == "float32" and config["use_cache"] == config["tie_word_embeddings"]


def test_a_generation_config_that_transformers_refuses_to_save_is_kept(saved):
    kept = GenerationConfig.from_pretrained(saved.source)
    with pytest.raises(ValueError, match="temperature"):
        kept.save_pretrained(saved.source / "never")
    written = json.loads((saved.folder / "generation_config.json").read_text())
    assert {name: written[name] for name in REFUSED} == REFUSED
    assert GenerationConfig.from_pretrained(saved.folder).to_dict() == kept.to_dict()


def test_every_tensor_is_the_live_one_and_stored_once(saved):
    live, stored = dict(saved.policy.named_parameters()), saved.run.weights(1)
    is_tied = saved.policy.config.tie_word_embeddings
    assert live.keys() == stored.keys() and ("lm_head.weight" in stored) == (not is_tied)
    assert all(torch.equal(live[name], stored[name]) for name in live)
    size = (saved.folder / "model.safetensors").stat().st_size
    assert 0 < size - sum(tensor.nbytes for tensor in live.values()) < HEADER_BYTES
    again = AutoModelForCausalLM.from_pretrained(saved.folder)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == is_tied


def test_config_names_the_dtype_of_the_weights_beside_it(tmp_path):
    source = write_policy(tmp_path / "source")
    half = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    half.save_pretrained(source)
    assert config_of(source)["dtype"] == "bfloat16"
    for dtype in ("float32", "bfloat16"):
        run = completed(run_train(tmp_path / dtype, source, dtype=dtype))
        assert config_of(run.checkpoint(1))["dtype"] == dtype
        assert {w.dtype for w in run.weights(1).values()} == {getattr(torch, dtype)}


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
