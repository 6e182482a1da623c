"""Random policies in memory, for the tests of updates."""

import torch
from checkpoints import family_config
from transformers import AutoModelForCausalLM

from nsr_fast.model.attention import PACKED_ATTENTION


def policy_of(config, dtype=torch.float32):
    torch.manual_seed(0)
    config._attn_implementation = PACKED_ATTENTION
    policy = AutoModelForCausalLM.from_config(config, dtype=dtype).train()
    policy.config.use_cache = False
    return policy


def tiny(*, is_tied, dtype=torch.float32, layers=2):
    config = family_config("qwen2" if is_tied else "llama")
    config.num_hidden_layers = layers
    config.layer_types = None
    return policy_of(type(config)(**config.to_dict()), dtype)


def freeze(policy, words):
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(not any(word in name for word in words))
    return policy
