"""A save costs no second copy of what it saves."""

import pytest
import torch
from checkpoints import byte_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

from nsr_fast.memory.limit import status_bytes
from nsr_fast.memory.measure import give_back_freed_memory, reset_peak
from nsr_fast.run.checkpoint import save_checkpoint

MIB = 1 << 20
SIZES = {"vocab_size": 16000, "hidden_size": 512, "intermediate_size": 2048}
SIZES |= {"num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4}


@pytest.fixture
def fused():
    """(policy, tensor): a tied Llama of 150 MiB whose parameters are rows of one tensor, as they
    are of an engine's."""
    with torch.device("meta"):
        config = LlamaConfig(**SIZES, tie_word_embeddings=True)
        policy = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    policy.to_empty(device="cpu").tie_weights()
    tensor = torch.ones(sum(p.numel() for p in policy.parameters()))
    start = 0
    for parameter in policy.parameters():
        parameter.data = tensor[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
    return policy, tensor


def test_a_save_takes_no_copy_of_the_weights_nor_of_the_moments(fused, tmp_path):
    """0.01 of the weights measured, 1.0 when they were cloned."""
    if torch.cuda.is_available():
        pytest.skip("counts the resident set of a CPU run")
    policy, tensor = fused
    state = {"round": 1, "moments": torch.ones_like(tensor)}
    give_back_freed_memory()  # as train/loop.py does
    reset_peak("cpu")
    before = status_bytes("VmRSS")
    if status_bytes("VmHWM") > before + 16 * MIB:
        pytest.skip("the peak cannot be reset here")
    save_checkpoint(tmp_path / "round-1", policy, byte_tokenizer(), state)
    grown = status_bytes("VmHWM") - before
    assert tensor.nbytes > 140 * MIB and grown < 0.3 * tensor.nbytes
    size = (tmp_path / "round-1" / "model.safetensors").stat().st_size
    assert 0 < size - tensor.nbytes < 65536
