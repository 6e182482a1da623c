"""Adapters on disk, in PEFT's format: saved, continued, and merged into their base."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from nsr_fast.errors import InputError
from nsr_fast.model.adapter import FrozenLinear, adapted_layers
from nsr_fast.model.load import Policy, load_policy
from nsr_fast.model.nf4 import dequantize
from nsr_fast.model.source import CONFIG, WEIGHTS, ModelSource, saved_shapes
from nsr_fast.types import LINEARS

_PREFIX = "base_model.model."


def save_adapter(folder: Path, policy: Policy) -> None:
    """adapter_config.json and adapter_model.safetensors, as `peft` reads them.

    lora_alpha is scale * rank, so PEFT's alpha / r is the scale that was trained with.
    """
    layers = adapted_layers(policy)
    first = next(iter(layers.values()))
    rank = first.lora_A.shape[0]
    targets = {name.rpartition(".")[2] for name in layers}
    base = policy.config.name_or_path
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(Path(base).absolute()) if Path(base).is_dir() else base,
        "r": rank,
        "lora_alpha": first.scale * rank,
        "lora_dropout": 0.0,
        "target_modules": [name for name in LINEARS if name in targets],
        "bias": "none",
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    form = "none" if first.absmax is None else "nf4"
    save_file(_named(layers), folder / WEIGHTS, metadata={"format": "pt", "quantize": form})


def check_adapter(source: ModelSource) -> None:
    """InputError unless the adapter's tensors are those of its base's; loads no weights."""
    if source.adapter_folder is not None:
        _check_names(load_policy(source.keys, source.shape, is_empty=True), source.adapter_folder)


@torch.no_grad()
def load_adapter(policy: Policy, folder: Path) -> None:
    """Write the A and B of `folder` into the policy's. InputError where names or shapes differ."""
    _check_names(policy, folder)
    saved = load_file(folder / WEIGHTS)
    for name, tensor in _tensors(adapted_layers(policy)).items():
        tensor.copy_(saved[name])


@torch.no_grad()
def merge_adapters(policy: Policy, plain: Policy) -> Policy:
    """Write the policy into `plain`, which has no adapters: W + scale B A, summed in float32.

    An NF4 W is what its bytes stand for: that is what was trained. Returns `plain`. For use
    elsewhere: rounding the sum to bfloat16 loses most of a small B A (78 % of its norm at a
    thousandth of W's size), so nothing here trains or samples from merged weights.
    """
    for name, module in policy.named_modules():
        if isinstance(module, FrozenLinear):
            weight = module.weight
            if module.absmax is not None:
                weight = dequantize(weight, module.absmax, torch.float32)
            if module.lora_A is not None:
                weight = weight + module.scale * (module.lora_B.float() @ module.lora_A.float())
            plain.get_submodule(name).weight.copy_(weight)
    return plain


def _check_names(policy: Policy, folder: Path) -> None:
    saved, here = saved_shapes(folder), _tensors(adapted_layers(policy))
    if different := sorted(saved.keys() ^ here.keys()):
        where = "the adapter" if different[0] in saved else "the model"
        raise InputError(f"model: {folder / WEIGHTS}: {different[0]} is in {where} only")
    for name, tensor in here.items():
        if saved[name] != list(tensor.shape):
            shapes = f"expected {list(tensor.shape)}, got {saved[name]}"
            raise InputError(f"model: {folder / WEIGHTS}: {name}: {shapes}")


def _named(layers: dict[str, FrozenLinear]) -> dict[str, torch.Tensor]:
    return {name: t.detach().contiguous() for name, t in _tensors(layers).items()}


def _tensors(layers: dict[str, FrozenLinear]) -> dict[str, torch.Tensor]:
    return {
        f"{_PREFIX}{name}.{kind}.weight": getattr(layer, kind)
        for name, layer in layers.items()
        for kind in ("lora_A", "lora_B")
    }
