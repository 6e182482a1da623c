"""The real vLLM, in this process, on the trainer's weights."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nsr_fast.data.prompt import Prompt
from nsr_fast.errors import GuardStop
from nsr_fast.rollout.rollout import Sampling, sampling_seed

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

TEXTS = ["What is 12 + 30?", "Count: 1 2 3", "x", "the quick brown fox jumps"]
GREEDY = Sampling(1, 12, temperature=0.0)


@pytest.fixture(scope="module", params=["qwen2", "qwen3", "llama"])
def engine_and_model(request, checkpoint):
    from nsr_fast.rollout.vllm_engine import VllmEngine

    folder = str(checkpoint(request.param))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    engine = VllmEngine(
        folder, model, tokenizer, stop_token_ids=[2], max_model_len=512, max_num_seqs=16
    )
    yield engine, model, tokenizer
    engine.close()


def prompts_of(tokenizer, texts):
    return [
        Prompt(str(i), text, tuple(tokenizer.encode(text)), None, {})
        for i, text in enumerate(texts)
    ]


def generate(engine, prompts, sampling, seed=0):
    seeds = [sampling_seed(seed, "test", 0, i) for i in range(len(prompts))]
    groups = dict(engine.generate(prompts, sampling, seeds))
    return [groups[i] for i in range(len(prompts))]


def trainer_logprobs(model, prompt, rollout, temperature=1.0):
    ids = torch.tensor([[*prompt.token_ids, *rollout.token_ids]])
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0, len(prompt.token_ids) - 1 : -1]
    logprob = (logits / temperature).log_softmax(-1)
    return logprob.gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0]


def take_step(model, seed):
    """One AdamW step large enough to change most greedy tokens."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    ids = torch.randint(3, 259, (4, 24))
    model(ids, labels=ids, use_cache=False).loss.backward()
    optimizer.step()
    model.zero_grad()


def test_parameters_are_views_of_the_engine_before_and_after_a_step(engine_and_model):
    engine, model, _ = engine_and_model
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


def test_engine_follows_the_step_greedily_and_in_logprobs(engine_and_model):
    engine, model, tokenizer = engine_and_model
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
def test_sampled_logprobs_are_the_trainers_at_the_same_temperature(engine_and_model, temperature):
    engine, model, tokenizer = engine_and_model
    for group in generate(engine, prompts_of(tokenizer, TEXTS), Sampling(3, 12, temperature)):
        for rollout in group.rollouts:
            expected = trainer_logprobs(model, group.prompt, rollout, temperature)
            torch.testing.assert_close(
                torch.tensor(rollout.sampler_logprob), expected, rtol=0, atol=1e-4
            )
            assert rollout.finish_reason == ("stop" if rollout.token_ids[-1] == 2 else "length")


def test_prefix_cache_is_dropped_with_the_old_weights(engine_and_model):
    engine, model, tokenizer = engine_and_model
    (prompt,) = prompts_of(tokenizer, ["0123456789" * 30])  # cached in blocks of 128 tokens

    def worst_error():
        (group,) = generate(engine, [prompt], Sampling(2, 8))
        return max(
            float(
                (trainer_logprobs(model, prompt, r) - torch.tensor(r.sampler_logprob)).abs().max()
            )
            for r in group.rollouts
        )

    assert worst_error() < 1e-4
    take_step(model, 3)
    assert worst_error() > 1e-2  # without the reset the engine reads keys of the old weights
    engine.weights_updated()
    assert worst_error() < 1e-4


def test_seeds_repeat_and_do_not_depend_on_the_batch(engine_and_model):
    engine, _, tokenizer = engine_and_model
    prompts = prompts_of(tokenizer, ["same", "same", "other"])
    sampling = Sampling(4, 8)
    tokens = [[r.token_ids for r in g.rollouts] for g in generate(engine, prompts, sampling)]
    again = [[r.token_ids for r in g.rollouts] for g in generate(engine, prompts, sampling)]
    alone = [[r.token_ids for r in g.rollouts] for g in generate(engine, prompts[:1], sampling)]
    other = [[r.token_ids for r in g.rollouts] for g in generate(engine, prompts, sampling, 1)]
    assert tokens == again and alone == tokens[:1]
    assert len({t for group in tokens[:2] for t in group}) == 8  # equal prompts, other noise
    assert tokens != other


def test_weights_that_left_the_engine_stop_the_run(engine_and_model):
    engine, model, _ = engine_and_model
    norm = model.model.norm
    shared = norm.weight
    norm.weight = torch.nn.Parameter(shared.detach().clone())
    try:
        with pytest.raises(GuardStop, match=r"stale weights: model\.norm\.weight left"):
            engine.weights_updated()
    finally:
        norm.weight = shared
    engine.weights_updated()


def test_an_engine_with_its_own_copy_follows_the_step(checkpoint):
    from nsr_fast.rollout.vllm_engine import VllmEngine

    folder = str(checkpoint("qwen2"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    engine = VllmEngine(
        folder,
        model,
        tokenizer,
        stop_token_ids=[2],
        max_model_len=512,
        max_num_seqs=16,
        share=False,
    )
    (prompt,) = prompts_of(tokenizer, ["What is 12 + 30?"])

    def worst_error():
        (group,) = generate(engine, [prompt], Sampling(2, 8))
        errors = [
            trainer_logprobs(model, prompt, r) - torch.tensor(r.sampler_logprob)
            for r in group.rollouts
        ]
        return float(torch.cat(errors).abs().max())

    assert worst_error() < 1e-4
    take_step(model, 4)
    assert worst_error() > 1e-2
    engine.weights_updated()
    assert worst_error() < 1e-4
    engine.close()
