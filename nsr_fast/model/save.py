"""A policy's folder as transformers and vLLM read it, written from the live tensors."""

from copy import deepcopy
from pathlib import Path

from safetensors.torch import save_file
from transformers import GenerationConfig, PretrainedConfig

from nsr_fast.model.load import Policy, Tokenizer, generation_config, model_config

WEIGHTS = "model.safetensors"


def save_model(folder: Path, policy: Policy) -> None:
    """Config, generation config and weights, in one file; a tied head is stored once.

    On the CPU no tensor is copied: the engine's row slices are written from where they lie.
    """
    weights, seen = {}, set()
    for name, tensor in policy.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if place not in seen:
            weights[name] = tensor.contiguous()
        seen.add(place)
    config = deepcopy(policy.config)
    config.dtype = str(policy.dtype).removeprefix("torch.")
    config.architectures = [type(policy).__name__]
    _save_config(folder, config)
    _save_generation_config(folder, policy.generation_config)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def save_all_but_weights(folder: Path, model: str, tokenizer: Tokenizer) -> None:
    """What lies in the folder of `model` beside its weights."""
    _save_config(folder, model_config(model))
    _save_generation_config(folder, generation_config(model))
    tokenizer.save_pretrained(folder)


def _save_config(folder: Path, config: PretrainedConfig) -> None:
    config.__dict__.pop("transformers_weights", None)  # the file name of the source
    config.to_json_file(folder / "config.json", use_diff=True)


def _save_generation_config(folder: Path, config: GenerationConfig) -> None:
    """As it came: save_pretrained refuses some of what from_pretrained takes (a temperature without
    do_sample)."""
    path = folder / "generation_config.json"
    config.to_json_file(path, use_diff=True, keys_to_pop=["compile_config"])
