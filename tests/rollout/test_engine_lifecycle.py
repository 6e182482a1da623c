"""The engine over time: no growth, a clear end, a second one in the same process."""

import os
from pathlib import Path

import pytest
import torch
from engines import TEXTS, generate, load, prompts_of, start, take_step

from nsr_fast.errors import EngineFailure
from nsr_fast.types import Sampling

pytestmark = pytest.mark.vllm


@pytest.fixture
def new_engine(checkpoint):
    """() -> (engine, model, tokenizer) on a fresh copy of one checkpoint."""
    pytest.importorskip("vllm")
    folder = checkpoint("qwen2")

    def build():
        model, tokenizer = load(folder)
        return start("vllm", folder, model, tokenizer), model, tokenizer

    return build


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_fifty_rounds_do_not_grow_memory(new_engine):
    engine, model, tokenizer = new_engine()
    prompts = prompts_of(tokenizer, TEXTS)
    resident = []
    for index in range(50):
        generate(engine, prompts, Sampling(4, 16), seed=index)
        engine.release_memory()
        take_step(model, index, learning_rate=1e-4)
        engine.regain_memory()
        engine.weights_updated()
        resident.append(resident_bytes())
    engine.close()
    assert resident[49] < 1.01 * resident[9]


def test_threads_can_be_set_again_after_an_engine(new_engine):
    """vLLM makes torch.set_num_threads do nothing, for the whole process."""
    before = torch.get_num_threads()
    engine, _, _ = new_engine()
    engine.close()
    try:
        for count in (before + 1, before):
            torch.set_num_threads(count)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)


def test_an_engine_that_breaks_ends_with_its_reason(new_engine):
    engine, _, tokenizer = new_engine()
    prompts = prompts_of(tokenizer, TEXTS)

    def break_a_layer(model):
        layer = model.model.layers[0].mlp.down_proj
        layer.weight.data = torch.zeros(1, 1)

    engine._llm.apply_model(break_a_layer)
    with pytest.raises(EngineFailure, match="vLLM failed while generating: RuntimeError: mat1"):
        generate(engine, prompts, Sampling(2, 4))
    engine.close()


def test_a_second_engine_works_after_the_first_and_not_beside_it(new_engine):
    first, _, tokenizer = new_engine()
    (prompt,) = prompts_of(tokenizer, TEXTS[:1])
    expected = generate(first, [prompt], Sampling(2, 8))
    with pytest.raises(RuntimeError, match=r"one vLLM engine a process at a time: close\(\)"):
        new_engine()
    assert generate(first, [prompt], Sampling(2, 8)) == expected
    first.close()
    second, *_ = new_engine()
    assert generate(second, [prompt], Sampling(2, 8)) == expected
    second.close()


def test_on_the_cpu_a_memory_turn_is_nothing_and_is_said_once(new_engine):
    if torch.cuda.is_available():
        pytest.skip("the CPU's behaviour")
    engine, *_ = new_engine()
    assert engine.release_memory() == {} == engine.regain_memory()
    assert [note for note in engine.notes if "KV cache is kept" in note]
    engine.close()
