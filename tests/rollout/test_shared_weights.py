"""One copy of the weights: the trainer's parameters are views into vLLM's tensors."""

import pytest
from engines import load, prompts_of, start, take_step, worst_error
from torch import nn

from nsr_fast.errors import GuardStop

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
    (prompt,) = prompts_of(tokenizer, ["0123456789" * 30])  # cached in blocks of 128 tokens
    assert worst_error(engine, model, prompt) < 1e-4
    take_step(model, 3)
    # without the reset the engine reads keys of the old weights
    assert worst_error(engine, model, prompt) > 1e-2
    engine.weights_updated()
    assert worst_error(engine, model, prompt) < 1e-4


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
