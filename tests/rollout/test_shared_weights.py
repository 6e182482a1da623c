"""One copy of the weights: the trainer's parameters are views into vLLM's tensors."""

import pytest
import torch
from engines import generate, load, prompts_of, start, take_step, worst_error
from torch import nn

from nsr_fast.errors import GuardStop
from nsr_fast.types import Sampling

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module", params=["qwen2", "qwen3", "llama"])
def shared(request, checkpoint):
    """(engine, model, tokenizer) of a vLLM engine on the trainer's weights."""
    pytest.importorskip("vllm")
    folder = checkpoint(request.param)
    model, tokenizer = load(folder)
    engine = start("vllm", folder, model, tokenizer)
    yield engine, model, tokenizer
    engine.close()


def test_parameters_are_views_of_the_engine_before_and_after_a_step(shared):
    engine, model, _ = shared
    addresses = {name: p.data_ptr() for name, p in model.named_parameters()}
    take_step(model, 1)
    engine.weights_updated()
    assert addresses == {name: p.data_ptr() for name, p in model.named_parameters()}
    head, table = model.lm_head.weight, model.model.embed_tokens.weight
    assert (head is table) == model.config.tie_word_embeddings
    attention = model.model.layers[0].self_attn
    rows = attention.q_proj.weight.shape[0]
    row_bytes = attention.q_proj.weight.shape[1] * 4
    assert attention.k_proj.weight.data_ptr() == (
        attention.q_proj.weight.data_ptr() + rows * row_bytes
    )
    assert engine.notes[0] == "weights: the engine computes with the policy's own tensors"


def test_prefix_cache_is_dropped_with_the_old_weights(shared):
    engine, model, tokenizer = shared
    (prompt,) = prompts_of(tokenizer, ["0123456789" * 30])  # cached in blocks of 32 tokens
    assert worst_error(engine, model, prompt) < 1e-4
    take_step(model, 3)
    # without the reset the engine reads keys of the old weights
    assert worst_error(engine, model, prompt) > 1e-2
    engine.weights_updated()
    assert worst_error(engine, model, prompt) < 1e-4


def test_a_group_shares_its_short_prompt_in_blocks_of_32_tokens(shared):
    """With vLLM's own 128 on the CPU no prompt below 128 tokens is ever computed once a group."""
    engine, _, tokenizer = shared
    config = engine._llm.llm_engine.vllm_config.cache_config
    assert config.block_size == 32 or torch.cuda.is_available()
    prompts = prompts_of(tokenizer, ["0123456789" * 5])  # 50 tokens: one whole block
    engine.weights_updated()
    cached = []
    step = engine._step

    def watched():
        outputs = step()
        cached.extend(output.num_cached_tokens or 0 for output in outputs)
        return outputs

    engine._step = watched
    try:
        generate(engine, prompts, Sampling(1, 2))
        generate(engine, prompts, Sampling(1, 2), seed=1)
    finally:
        del engine._step
    assert max(cached) == 48 - 48 % config.block_size


def test_weights_that_left_the_engine_stop_the_run(shared):
    engine, model, _ = shared
    norm = model.model.norm
    held = norm.weight
    norm.weight = nn.Parameter(held.detach().clone())
    try:
        with pytest.raises(GuardStop, match=r"stale weights: model\.norm\.weight left"):
            engine.weights_updated()
    finally:
        norm.weight = held
    engine.weights_updated()
