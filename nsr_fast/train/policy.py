"""The policy: a transformers causal language model that runs on packed sequences."""

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from nsr_fast.errors import InputError
from nsr_fast.rollout.shared_weights import check_family
from nsr_fast.train.attention import PACKED_ATTENTION
from nsr_fast.train.packing import MicroBatch


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, after the architecture has been checked (reads no weights)."""
    logging.disable_progress_bar()
    is_path = model.startswith((".", "/", "~")) or Path(model).is_dir()
    if is_path and not (Path(model).expanduser() / "config.json").is_file():
        raise InputError(
            f"model: {model}: no config.json there; expected a Hugging Face checkpoint directory "
            "(config.json, *.safetensors, tokenizer files) or a hub name"
        )
    try:
        check_family(AutoConfig.from_pretrained(model).model_type)
        return AutoTokenizer.from_pretrained(model)
    except (OSError, KeyError) as error:
        raise InputError(f"model: {model}: cannot load it: {_first_line(error)}") from None


def load_policy(model: str, dtype: str, *, gradient_checkpointing: bool = False) -> PreTrainedModel:
    """Load the weights. dtype: "auto" (bfloat16 on CUDA, float32 on the CPU) | torch dtype name."""
    if dtype == "auto":
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    try:
        policy = AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, dtype), attn_implementation=PACKED_ATTENTION
        )
    except (OSError, RuntimeError) as error:
        raise InputError(f"model: {model}: cannot load its weights: {_first_line(error)}") from None
    policy.config.use_cache = False
    if gradient_checkpointing:
        policy.gradient_checkpointing_enable()
    return policy.to("cuda" if torch.cuda.is_available() else "cpu").train()


def stop_token_ids(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a completion: of the generation config, the config and the tokenizer."""
    found: set[int] = set()
    for value in (
        policy.generation_config.eos_token_id,
        policy.config.eos_token_id,
        tokenizer.eos_token_id,
    ):
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    if not found:
        raise InputError("model: no end-of-sequence token; set eos_token_id in config.json")
    return sorted(found)


def hidden_states(policy: PreTrainedModel, batch: MicroBatch) -> torch.Tensor:
    """Hidden state before the head at every loss row: [R, D]. No logits are made."""
    outputs = policy.model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        sequence_lengths=batch.sequence_lengths,
        use_cache=False,
    )
    return outputs.last_hidden_state[0].index_select(0, batch.row)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
