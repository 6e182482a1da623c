"""Random small checkpoints of the three families, with a byte-level tokenizer, for the tests."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.utils import logging

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,  # head_dim 32: the smallest that vLLM's CPU attention takes
    "num_key_value_heads": 1,
    "max_position_embeddings": 8192,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """259 entries: three special tokens, then every byte; any text round-trips."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(SPECIAL + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )


def family_config(family: str, vocab_size: int = 259, **changes):
    """Qwen2 tied, Qwen3 tied with head_dim != hidden / heads, Llama untied or tied; 259 rows pad
    to 320. `changes` are of the sizes."""
    sizes = {**_SIZES, "vocab_size": vocab_size, **changes}
    if family == "qwen2":
        return Qwen2Config(**sizes, tie_word_embeddings=True)
    if family == "qwen3":
        return Qwen3Config(**sizes, head_dim=64, tie_word_embeddings=True)
    if family in ("llama", "llama_tied"):
        return LlamaConfig(**sizes, tie_word_embeddings=family == "llama_tied")
    raise ValueError(family)


def write_checkpoint(folder: Path, family: str, seed: int = 0, **changes) -> Path:
    """Save a random float32 checkpoint that transformers and vLLM both load.

    changes   of the sizes: intermediate_size=128 (NF4 wants multiples of 64)
    """
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    config = family_config(family, **changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = [2]
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
