"""Packing: layout, budget, and equality with one sequence at a time."""

import pytest
import torch
from rollouts import make_rollouts
from transformers import AutoModelForCausalLM

from nsr_fast.config_groups import ModelKeys
from nsr_fast.model.attention import PACKED_ATTENTION, packed_attention
from nsr_fast.model.batch import hidden_states, minibatches_of, pack
from nsr_fast.model.load import load_policy

CPU = torch.device("cpu")


def test_pack_puts_every_target_after_the_row_that_predicts_it():
    for batch in pack(make_rollouts([1, 5, 3, 5]), 20, CPU):
        assert torch.equal(batch.input_ids[0, batch.row + 1], batch.target)
        assert batch.input_ids.shape == batch.position_ids.shape
        assert sum(batch.sequence_lengths) == batch.input_ids.shape[1]


def test_pack_lays_every_column_out_token_by_token():
    """Two rollouts of 4 prompt tokens: 3 completion tokens (first, being longest) and 2."""
    short, long = make_rollouts([2, 3])
    (batch,) = pack([short, long], 1000, CPU)
    assert batch.rollouts == (long, short) and batch.sequence_lengths == (7, 6)
    tokens = [*long.prompt.token_ids, *long.token_ids, *short.prompt.token_ids, *short.token_ids]
    assert batch.input_ids.tolist() == [tokens]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5]]
    assert batch.row.tolist() == [3, 4, 5, 10, 11]
    assert batch.target.tolist() == [*long.token_ids, *short.token_ids]
    assert batch.token_weight.tolist() == [-1.0, -1.0, -1.0, 0.25, 0.25]
    assert batch.sampler_logprob.tolist() == [0.0, -1.0, -2.0, 0.0, -1.0]


def test_pack_takes_one_weight_for_a_rollout_or_one_for_each_token():
    one, each = make_rollouts([2, 3])
    each.weight, each.entropy_share = (0.5, 0.0, -2.0), 0.75
    (batch,) = pack([one, each], 1000, CPU)
    assert batch.token_weight.tolist() == [0.5, 0.0, -2.0, 0.25, 0.25]
    assert batch.entropy_share.tolist() == [0.75, 0.75, 0.75, 0.0, 0.0]
    assert pack([one], 1000, CPU)[0].entropy_share is None
    each.weight = (0.5, 0.0)
    with pytest.raises(ValueError, match="weight: expected a number or 3, one a token, got 2"):
        pack([each], 1000, CPU)


def test_pack_keeps_the_budget_and_takes_the_longest_first():
    batches = pack(make_rollouts([2, 9, 4, 4, 1, 7]), 16, CPU)
    sizes = [batch.input_ids.shape[1] for batch in batches]
    assert all(size <= 16 for size in sizes)
    assert batches[0].sequence_lengths[0] == 13
    assert sum(sizes) == sum(n + 4 for n in [2, 9, 4, 4, 1, 7])


def test_pack_gives_a_sequence_over_the_budget_a_batch_of_its_own():
    batches = pack(make_rollouts([30, 2]), 8, CPU)
    assert [batch.sequence_lengths for batch in batches] == [(34,), (6,)]


@pytest.mark.parametrize(
    ("count", "parts", "sizes"), [(7, 3, [2, 2, 3]), (2, 4, [1, 1]), (0, 2, [])]
)
def test_minibatches_are_even_and_never_empty(count, parts, sizes):
    minibatches = minibatches_of(make_rollouts([2] * count), parts, 6, CPU)
    assert [sum(len(b.rollouts) for b in batches) for batches in minibatches] == sizes
    assert all(len(batches) == size for batches, size in zip(minibatches, sizes))  # 6 tokens each


def test_training_builds_no_cache_whatever_the_config_says(checkpoint):
    policy = load_policy(ModelKeys(model=str(checkpoint("qwen2")), dtype="float32"))
    caches = []
    policy.model.register_forward_hook(lambda *call: caches.append(call[-1].past_key_values))
    (batch,) = pack(make_rollouts([2, 3]), 1000, CPU)
    hidden_states(policy, batch)
    assert policy.config.use_cache is True and caches == [None]


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_packed_hidden_states_equal_one_by_one(checkpoint, family):
    folder = checkpoint(family)
    packed = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation=PACKED_ATTENTION
    )
    eager = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    )
    for model in (packed, eager):  # sharper attention, so that leaking neighbours would show
        for name, parameter in model.named_parameters():
            if "q_proj.weight" in name or "k_proj.weight" in name:
                parameter.data *= 20
    rollouts = make_rollouts([7, 19, 33, 5, 19, 1])
    (batch,) = pack(rollouts, 1000, CPU)
    got = hidden_states(packed, batch)
    expected = []
    for rollout in batch.rollouts:
        ids = torch.tensor([rollout.prompt.token_ids + rollout.token_ids])
        hidden = eager.model(input_ids=ids, use_cache=False).last_hidden_state[0]
        expected.append(hidden[len(rollout.prompt.token_ids) - 1 : -1])
    # transformers computes norms, rotary angles and eager softmax in float32; a leak is of order 1
    torch.testing.assert_close(got, torch.cat(expected), rtol=0, atol=1e-5)


def test_packed_attention_refuses_a_mask_and_wrong_lengths():
    q = torch.randn(1, 2, 6, 8)
    with pytest.raises(ValueError, match="attention_mask: expected None"):
        packed_attention(torch.nn.Identity(), q, q, q, torch.ones(1, 6), sequence_lengths=[6])
    with pytest.raises(ValueError, match="sequence_lengths: expected a sum of T=6, got 5"):
        packed_attention(torch.nn.Identity(), q, q, q, None, sequence_lengths=[5])
