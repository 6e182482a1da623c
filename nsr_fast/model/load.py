"""The policy: a transformers causal language model that runs on packed sequences."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from nsr_fast.config_groups import ModelKeys
from nsr_fast.errors import InputError
from nsr_fast.model.adapter import adapt
from nsr_fast.model.attention import PACKED_ATTENTION
from nsr_fast.model.layout import check_family
from nsr_fast.model.lean_layers import lean_layers
from nsr_fast.types import PLAIN, AdapterShape

Policy, Tokenizer = PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(model: str) -> Tokenizer:
    """The checkpoint's tokenizer, after the architecture has been checked (reads no weights)."""
    logging.disable_progress_bar()
    is_path = model.startswith((".", "/", "~")) or Path(model).is_dir()
    if is_path and not (Path(model).expanduser() / "config.json").is_file():
        raise InputError(
            f"model: {model}: no config.json there; expected a Hugging Face checkpoint directory "
            "(config.json, *.safetensors, tokenizer files) or a hub name"
        )
    model_config(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, KeyError, ValueError) as error:  # ValueError: an architecture it does not know
        raise InputError(f"model: {model}: cannot load it: {_first_line(error)}") from None
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what a missing file leaves
        raise InputError(f"model: {model}: its tokenizer knows no token; add tokenizer.json to it")
    return tokenizer


def load_policy(
    keys: ModelKeys,
    shape: AdapterShape = PLAIN,
    *,
    gradient_checkpointing: bool = False,
    is_empty: bool = False,
) -> Policy:
    """The policy for training, on the GPU where there is one, with the adapters of `shape`.

    is_empty   every parameter on the meta device: the engine loads the checkpoint, and
               share_weights binds the policy to the engine's tensors
    """
    model, options = keys.model, {"dtype": weight_dtype(keys)}
    options["attn_implementation"] = PACKED_ATTENTION
    try:
        if is_empty:
            with torch.device("meta"):
                policy = AutoModelForCausalLM.from_config(model_config(model), **options)
            policy.generation_config = generation_config(model)
        else:
            policy = AutoModelForCausalLM.from_pretrained(model, **options)
    except (OSError, RuntimeError) as error:
        raise InputError(f"model: {model}: cannot load its weights: {_first_line(error)}") from None
    if gradient_checkpointing:
        policy.gradient_checkpointing_enable()
    adapt(policy, shape)
    if not is_empty:
        policy.to("cuda" if torch.cuda.is_available() else "cpu")
    return lean_layers(policy.train())


def fill_buffers(policy: Policy, device: torch.device) -> None:
    """Make the buffers of a policy from the meta device (rotary frequencies) from its config."""
    for name, module in list(policy.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            parent, _, last = name.rpartition(".")
            made = type(module)(policy.config).to(device)
            setattr(policy.get_submodule(parent), last, made)


def model_config(model: str) -> PretrainedConfig:
    """config.json of a checkpoint of a known family; no weight is read."""
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, KeyError, ValueError) as error:  # ValueError: an architecture it does not know
        raise InputError(f"model: {model}: cannot load it: {_first_line(error)}") from None
    check_family(config.model_type)
    return config


def generation_config(model: str) -> GenerationConfig:
    """generation_config.json of a checkpoint; most base models have none: then its config's."""
    try:
        return GenerationConfig.from_pretrained(model)
    except OSError:
        return GenerationConfig.from_model_config(model_config(model))


def weight_dtype(keys: ModelKeys) -> torch.dtype:
    """Of the policy: auto is bfloat16 on a GPU and float32 on the CPU."""
    name = keys.dtype
    if name == "auto":
        name = "bfloat16" if torch.cuda.is_available() else "float32"
    return getattr(torch, name)


def logits_dtype(keys: ModelKeys) -> torch.dtype | None:
    """Of the head's logits, in trainer and engine; None: that of the weights."""
    return None if keys.logits_dtype == "auto" else getattr(torch, keys.logits_dtype)


def stop_token_ids(model: str, tokenizer: Tokenizer, turn_end_ids: Sequence[int] = ()) -> list[int]:
    """Every id that ends a completion: of generation config, config, tokenizer and template.

    turn_end_ids   with which the template ends a turn of the assistant
    """
    config = AutoConfig.from_pretrained(model)
    generation = generation_config(model)
    found = set(turn_end_ids)
    for value in (generation.eos_token_id, config.eos_token_id, tokenizer.eos_token_id):
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    if not found:
        raise InputError("model: no end-of-sequence token; set eos_token_id in config.json")
    return sorted(found)


def vocabulary(model: str, tokenizer: Tokenizer, stop_token_ids: Sequence[int]) -> tuple[int, int]:
    """(v, V): the head has V rows, those from v on belong to no token and are left out.

    v is 1 + the largest id that the tokenizer knows or that ends a completion; ids without a token
    below it are kept. At most V.
    """
    rows = AutoConfig.from_pretrained(model).vocab_size
    largest = max(*tokenizer.get_vocab().values(), *stop_token_ids)
    return min(largest + 1, rows), rows


def check_context(policy: Policy, max_model_len: int) -> None:
    """Raise InputError unless the model has as many positions as prompt and completion may take."""
    limit = policy.config.max_position_embeddings
    if max_model_len > limit:
        raise InputError(
            f"max_prompt_length + max_completion_length = {max_model_len} tokens, the model takes "
            f"{limit} (max_position_embeddings); lower one of the two"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
