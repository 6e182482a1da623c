"""LoRA and QLoRA through whole runs: both engines, tied and untied heads, and PEFT as the judge."""

from importlib.util import find_spec

import pytest
import torch
from cli.adapter_runs import ENGINES, load_plain, logits_in_peft, logits_of, train_adapters
from cli.adapter_runs import write_base as write
from safetensors.torch import load_file

from nsr_fast.cli import main
from nsr_fast.model.nf4 import quantize
from nsr_fast.types import LINEARS

FAMILIES = ("qwen2", "qwen3", "llama", "llama_tied")


@pytest.fixture(scope="module", params=FAMILIES)
def base(request, tmp_path_factory):
    return write(tmp_path_factory.mktemp("base"), request.param)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    if request.param == "vllm" and find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    return request.param


@pytest.fixture(scope="module", params=["none", "nf4"])
def trained(request, engine, base, tmp_path_factory):
    """Two rounds of LoRA or QLoRA."""
    folder = tmp_path_factory.mktemp("run")
    done = train_adapters(folder, base, engine, quantize=request.param)
    is_shared = "the engine computes with the policy's own tensors" in done.run.out
    assert is_shared == (engine == "vllm")
    return done, request.param


def test_trainer_and_engine_compute_the_same(trained):
    done, _ = trained
    assert len(done.run.metrics) == 2 and done.run.metrics[1]["trained_tokens"] > 0
    assert max(line["drift_mean"] for line in done.run.metrics) <= 1e-4
    assert max(line["drift_max"] for line in done.run.metrics) <= 1e-3


def test_the_base_keeps_its_bits(trained):
    """Whatever is not A or B, in the memory that engine and trainer share."""
    done, form = trained
    checkpoint = load_file(done.base / "model.safetensors")
    seen = set()
    for name, tensor in done.policy.named_parameters():
        module, _, kind = name.rpartition(".")
        if kind in ("lora_A", "lora_B"):
            continue
        assert not tensor.requires_grad and tensor.grad is None, name
        if form == "nf4" and module.rpartition(".")[2] in LINEARS and kind != "bias":
            packed, absmax = quantize(checkpoint[f"{module}.weight"])
            want = packed if kind == "weight" else absmax
        else:
            want = checkpoint[name]
        assert torch.equal(tensor, want), name
        seen.add(name)
    assert checkpoint.keys() <= seen


def test_every_adapter_changes_and_is_saved(trained):
    done, _ = trained
    saved = done.saved()
    assert len(saved) == 2 * 7 * 2  # layers, linears, A and B
    for name, tensor in saved.items():
        assert tensor.count_nonzero() > 0, name
        own = name.removeprefix("base_model.model.").removesuffix(".weight")
        assert torch.equal(done.policy.get_parameter(own), tensor)


def test_the_adapter_in_peft_has_the_policys_logits(trained):
    done, form = trained
    ours = done.logits()
    base = logits_of(load_plain(done.base))
    assert float((ours - base).abs().max()) > 1e-2
    peft = logits_in_peft(done.base, done.adapter, form)
    assert float((peft - ours).abs().max()) < 1e-5


def test_merged_it_has_them_too(trained, tmp_path):
    done, _ = trained
    assert main(["merge", str(done.adapter), str(tmp_path / "merged")]) == 0
    merged = logits_of(load_plain(tmp_path / "merged"))
    assert float((merged - done.logits()).abs().max()) < 1e-5
