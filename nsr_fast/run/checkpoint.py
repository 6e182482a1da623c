"""Checkpoints in Hugging Face format that transformers and vLLM load, plus the trainer's state."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from nsr_fast.model.adapter import adapted_layers
from nsr_fast.model.adapter_files import save_adapter
from nsr_fast.model.load import Policy, Tokenizer


def save_checkpoint(
    folder: Path, policy: Policy, tokenizer: Tokenizer, trainer_state: Mapping[str, object]
) -> None:
    """Write `folder` whole or not at all (a temporary neighbour is renamed at the end).

    Of a policy with adapters these alone, in PEFT's format.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    if adapted_layers(policy):
        save_adapter(unfinished, policy)
    else:
        policy.save_pretrained(unfinished, state_dict=_own_tensors(policy))
    tokenizer.save_pretrained(unfinished)
    torch.save(trainer_state, unfinished / "trainer_state.pt")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(unfinished, folder)


def _own_tensors(policy: Policy) -> dict[str, torch.Tensor]:
    """The state dict out of the engine's fused storage; tied names keep one tensor."""
    copies: dict[tuple, torch.Tensor] = {}
    state = {}
    for name, tensor in policy.state_dict().items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in copies:
            copies[key] = tensor.detach().cpu().clone()
        state[name] = copies[key]
    return state
