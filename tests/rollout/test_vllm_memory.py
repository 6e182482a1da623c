"""Memory turns: what counts as a failed one (CPU), and a real one (GPU)."""

import pytest
import torch
from engines import TEXTS, generate, load, prompts_of, start, take_step, trainer_logprobs

from nsr_fast.errors import GuardStop
from nsr_fast.rollout.vllm_memory import check_turn, free_bytes
from nsr_fast.types import Sampling

GIB = 2**30


@pytest.mark.parametrize("measured", [10 * GIB, 9.81 * GIB, 10.19 * GIB])
def test_a_turn_within_two_percent_passes(measured):
    check_turn("released", int(measured), 10 * GIB)


@pytest.mark.parametrize(("measured", "text"), [(0, "0.00"), (9.79, "9.79"), (10.21, "10.21")])
def test_a_turn_that_moves_other_bytes_stops_the_run_with_the_cause(measured, text):
    words = rf"expected the KV cache's 10\.00 GiB to be released, measured {text} GiB; .*ALLOC_CONF"
    with pytest.raises(GuardStop, match=words):
        check_turn("released", int(measured * GIB), 10 * GIB)


@pytest.mark.gpu
@pytest.mark.vllm
def test_the_kv_cache_makes_room_for_the_update_and_comes_back(checkpoint):
    pytest.importorskip("vllm")
    folder = checkpoint("qwen2")
    model, tokenizer = load(folder)
    model = model.to("cuda", torch.bfloat16)
    engine = start("vllm", folder, model, tokenizer, gpu_memory_utilization=0.5)
    prompts = prompts_of(tokenizer, TEXTS)
    for index in range(3):
        generate(engine, prompts, Sampling(4, 16), seed=index)
        before = free_bytes()
        released = engine.release_memory()
        held = torch.ones(int(0.9 * released["memory/kv_bytes"]), dtype=torch.int8, device="cuda")
        take_step(model, index, learning_rate=1e-3)
        del held
        regained = engine.regain_memory()["memory/kv_regained_bytes"]
        engine.weights_updated()
        assert abs(regained - released["memory/kv_released_bytes"]) < 0.02 * regained
        assert abs(free_bytes() - before) < 0.02 * regained + 64 * 2**20
    (group, *_) = generate(engine, prompts[:1], Sampling(2, 8))
    for rollout in group.rollouts:
        expected = trainer_logprobs(model, group.prompt, rollout).float().cpu()
        drift = (torch.tensor(rollout.sampler_logprob) - expected).abs().mean()
        assert drift < 0.1
    engine.close()
