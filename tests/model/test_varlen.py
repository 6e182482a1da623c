"""Which varlen kernel is taken: the first whose outputs and gradients are right."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from nsr_fast.model.attention import packed_attention
from nsr_fast.model.varlen import choose_varlen, disagreement, first_that_agrees, packed_bounds

CPU = torch.device("cpu")
HEADS = (4, 2, 16)


def block_mask(bounds, is_causal=True):
    positions = torch.arange(int(bounds[-1]))
    owner = torch.bucketize(positions, bounds, right=True)
    mask = owner[:, None] == owner[None, :]
    return mask & (positions[:, None] >= positions[None, :]) if is_causal else mask


def masked_attention(query, key, value, bounds, longest, scale, is_causal=True):
    """A correct (or, not causal, a wrong) varlen attention by a dense mask."""
    q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
    mask = block_mask(bounds, is_causal)
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)


def not_causal(*arguments):
    return masked_attention(*arguments, is_causal=False)


def no_key_gradient(query, key, value, *rest):
    return masked_attention(query, key.detach() + 0 * key, value, *rest)


def test_a_right_kernel_agrees_and_wrong_ones_say_where():
    assert disagreement(masked_attention, CPU, torch.bfloat16, HEADS) is None
    assert "its output is off by" in disagreement(not_causal, CPU, torch.bfloat16, HEADS)
    assert "gradient of the key" in disagreement(no_key_gradient, CPU, torch.bfloat16, HEADS)


def test_the_first_kernel_that_agrees_is_taken_and_the_others_keep_their_reason():
    def absent():
        raise ImportError("No module named 'flash_attn'")

    candidates = {"a": absent, "b": lambda: not_causal, "c": lambda: masked_attention, "d": absent}
    choice = first_that_agrees(candidates, CPU, torch.bfloat16, HEADS)
    assert choice.name == "c" and choice.attend is masked_attention
    assert choice.reasons["a"] == "ImportError: No module named 'flash_attn'"
    assert (
        choice.note.startswith("packed attention: c (a: ImportError")
        and "b: its out" in choice.note
    )
    none = first_that_agrees({"b": lambda: not_causal}, CPU, torch.bfloat16, HEADS)
    assert none.attend is None and none.name == "torch scaled_dot_product_attention"


def test_on_the_cpu_and_in_float32_it_is_torch():
    choice = choose_varlen(CPU, torch.bfloat16, *HEADS)
    assert choice.attend is None
    assert choice.note == "packed attention: torch scaled_dot_product_attention"


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [(14, 2, 64), (16, 8, 128)])
def test_the_kernel_of_this_gpu_equals_torch(heads):
    device = torch.device("cuda")
    choice = choose_varlen(device, torch.bfloat16, *heads)
    print(choice.note)
    lengths = [700, 64, 64, 3]
    q, k, v = (
        torch.randn(1, h, sum(lengths), heads[2], device=device)
        for h in (heads[0], heads[1], heads[1])
    )
    want, _ = packed_attention(torch.nn.Identity(), q, k, v, None, sequence_lengths=lengths)
    half = (x.bfloat16() for x in (q, k, v))
    got, _ = packed_attention(torch.nn.Identity(), *half, None, sequence_lengths=lengths)
    torch.testing.assert_close(got.float(), want, rtol=2e-2, atol=2e-2)


def test_bounds_start_each_sequence():
    assert packed_bounds([3, 1, 4], CPU).tolist() == [0, 3, 4, 8]
