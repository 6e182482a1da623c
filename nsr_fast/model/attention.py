"""Causal attention over packed sequences, without padding and without a [T, T] mask.

transformers calls it for every layer as the attention implementation "nsr_packed". The lengths of
the packed sequences travel as the model keyword `sequence_lengths`. On CUDA in half precision a
varlen kernel computes it (varlen.py); otherwise neighbours of equal length are batched into one
scaled_dot_product_attention call, which is why packing sorts by length.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from nsr_fast.model.layout import head_dim
from nsr_fast.model.recompute import with_recipe
from nsr_fast.model.varlen import choose_varlen, packed_bounds

PACKED_ATTENTION = "nsr_packed"

_choose = cache(choose_varlen)


def attention_note(policy: PreTrainedModel) -> str:
    """Which kernel computes the packed attention of this policy, in words."""
    config = policy.config
    heads = config.num_attention_heads, config.num_key_value_heads, head_dim(config)
    return _choose(policy.device, policy.dtype, *heads).note


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,  # [1, Hq, T, d]
    key: torch.Tensor,  # [1, Hkv, T, d]
    value: torch.Tensor,  # [1, Hkv, T, d]
    attention_mask: torch.Tensor | None,
    *,
    sequence_lengths: Sequence[int],
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Each packed sequence attends causally to itself only. Returns ([1, T, Hq, d], None)."""
    if attention_mask is not None:
        raise ValueError("attention_mask: expected None for packed sequences, got a mask")
    if sum(sequence_lengths) != query.shape[2]:
        raise ValueError(
            f"sequence_lengths: expected a sum of T={query.shape[2]}, got {sum(sequence_lengths)}"
        )
    heads = query.shape[1], key.shape[1], query.shape[3]
    attend = _choose(query.device, query.dtype, *heads).attend
    if attend is not None and dropout == 0.0:
        bounds = packed_bounds(sequence_lengths, query.device)
        packed = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, H, d]
        return attend(*packed, bounds, max(sequence_lengths), scaling)[None], None
    outputs = []
    for start, count, length in _equal_length_runs(sequence_lengths):
        q, k, v = (_unpack(x, start, count, length) for x in (query, key, value))
        out = scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True
        )
        outputs.append(out.transpose(1, 2).reshape(1, count * length, *_heads(out)))
    return with_recipe(_joined(*outputs), _joined, outputs), None


def _joined(*outputs: torch.Tensor) -> torch.Tensor:
    return torch.cat(outputs, dim=1)


def _equal_length_runs(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    start = 0
    for length, run in groupby(lengths):
        count = sum(1 for _ in run)
        yield start, count, length
        start += count * length


def _unpack(x: torch.Tensor, start: int, count: int, length: int) -> torch.Tensor:
    part = x[0, :, start : start + count * length]  # [H, count * length, d]
    return part.unflatten(1, (count, length)).transpose(0, 1)  # [count, H, length, d]


def _heads(out: torch.Tensor) -> tuple[int, int]:
    return out.shape[1], out.shape[3]


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, lambda *_, **__: None)
