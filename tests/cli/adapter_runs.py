"""Runs that train adapters, the policies that they leave in memory, and what PEFT makes of them."""

import importlib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cli import seams
from cli.tiny_runs import Run, completed, run_train, write_policy
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from nsr_fast.model.nf4 import dequantize, quantize
from nsr_fast.types import LINEARS

RANK, ALPHA = 4, 12  # a scale that is not 1
KEYS = {"lora_rank": RANK, "lora_alpha": ALPHA, "learning_rate": 2e-2, "max_rounds": 2}
ENGINES = (pytest.param("vllm", marks=pytest.mark.vllm), "transformers")
IDS = torch.arange(3, 67).reshape(4, 16)


@dataclass(frozen=True)
class Trained:
    """A finished run, its policy, and the checkpoint that it started from."""

    run: Run
    policy: nn.Module
    base: Path

    @property
    def adapter(self):
        return self.run.checkpoint(len(self.run.metrics))

    def saved(self):
        """A and B by PEFT's names."""
        return load_file(self.adapter / "adapter_model.safetensors")

    def logits(self):
        return logits_of(self.policy)


def write_base(folder, family="qwen2", **changes):
    """A random policy whose widths are whole blocks of NF4."""
    return write_policy(folder, family, **{"intermediate_size": 128, **changes})


def train_adapters(folder, base, engine="transformers", **settings):
    """`nsr-fast train` with KEYS and `settings`; a run that ended well."""
    module, name = seams.BUILD_LEARNER.rsplit(".", 1)
    real, built = getattr(importlib.import_module(module), name), []

    def build(*args):
        built.append(real(*args))
        return built[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seams.BUILD_LEARNER, build)
        run = completed(run_train(folder, base, engine=engine, **{**KEYS, **settings}))
    return Trained(run, built[0].policy, base)


@torch.no_grad()
def logits_of(model, ids=IDS):
    """Of whole sequences with plain attention: [4, 16, V]."""
    attention = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    logits = model.eval()(ids, use_cache=False).logits
    model.set_attn_implementation(attention)
    return logits


def load_plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@torch.no_grad()
def load_base(folder, form):
    """transformers' model of a checkpoint; form nf4: what is left of its projections in 4 bits."""
    model = load_plain(folder)
    for name, module in model.named_modules():
        if form == "nf4" and name.rpartition(".")[2] in LINEARS:
            module.weight.copy_(dequantize(*quantize(module.weight), torch.float32))
    return model


def logits_in_peft(folder, adapter, form="none", ids=IDS):
    model = PeftModel.from_pretrained(load_base(folder, form), adapter)
    return logits_of(model.base_model.model, ids)
