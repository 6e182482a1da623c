"""Both engines, the real vLLM and transformers, follow the trainer's weights in each family."""

import pytest
import torch
from engines import GREEDY, TEXTS, generate, load, prompts_of, start, take_step, trainer_logprobs

from nsr_fast.types import Sampling

pytestmark = pytest.mark.vllm
CASES = [
    (name, family) for name in ("vllm", "transformers") for family in ("qwen2", "qwen3", "llama")
]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def running(request, checkpoint):
    """(engine, model, tokenizer)."""
    name, family = request.param
    if name == "vllm":
        pytest.importorskip("vllm")
    folder = checkpoint(family)
    model, tokenizer = load(folder)
    engine = start(name, folder, model, tokenizer)
    yield engine, model, tokenizer
    engine.close()


def test_engine_follows_the_step_greedily(running):
    engine, model, tokenizer = running
    prompts = prompts_of(tokenizer, TEXTS)
    before = [g.rollouts[0].token_ids for g in generate(engine, prompts, GREEDY)]
    take_step(model, 2)
    engine.weights_updated()
    after = [g.rollouts[0].token_ids for g in generate(engine, prompts, GREEDY)]
    assert before != after
    for prompt, tokens in zip(prompts, after):
        ids = torch.tensor([prompt.token_ids])
        expected = model.generate(
            ids, max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=0
        )[0, ids.shape[1] :]
        assert list(tokens) == expected.tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_logprobs_are_the_trainers_at_the_same_temperature(running, temperature):
    engine, model, tokenizer = running
    for group in generate(engine, prompts_of(tokenizer, TEXTS), Sampling(3, 12, temperature)):
        for rollout in group.rollouts:
            expected = trainer_logprobs(model, group.prompt, rollout, temperature)
            torch.testing.assert_close(
                torch.tensor(rollout.sampler_logprob), expected, rtol=0, atol=1e-4
            )
            assert rollout.finish_reason == ("stop" if rollout.token_ids[-1] == 2 else "length")
