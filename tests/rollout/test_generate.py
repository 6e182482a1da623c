"""What both engines promise about sampling, seeds, streaming and budgets."""

import time

import pytest
import torch
from engines import generate, load, prompts_of, start, trainer_logprobs

from nsr_fast.rollout.budget import BudgetMeter
from nsr_fast.types import Budget, Prompt, Sampling

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module", params=["vllm", "transformers"])
def running(request, checkpoint):
    """(engine, model, tokenizer); 77 ends completions beside the model's own stop token 2."""
    name = request.param
    if name == "vllm":
        pytest.importorskip("vllm")
    folder = checkpoint("qwen2")
    model, tokenizer = load(folder)
    engine = start(name, folder, model, tokenizer, stop_token_ids=[2, 77])
    yield engine, model, tokenizer
    engine.close()


def test_truncated_sampling_renormalises_over_what_is_left(running):
    engine, model, tokenizer = running
    (prompt,) = prompts_of(tokenizer, ["abc"])
    (group,) = generate(engine, [prompt], Sampling(6, 8, top_k=3))
    for rollout in group.rollouts:
        full = trainer_logprobs(model, prompt, rollout)
        gap = torch.tensor(rollout.sampler_logprob) - full
        assert (gap > 0).all() and (torch.tensor(rollout.sampler_logprob) <= 0).all()


def chi_square(counts, expected):
    """(statistic, bins): tokens expected more than 5 times, and all others together."""
    likely = expected > 5
    rest = expected[~likely].sum()
    statistic = ((counts - expected) ** 2 / expected)[likely].sum()
    return statistic + (counts[~likely].sum() - rest) ** 2 / rest, int(likely.sum()) + 1


def test_samples_have_the_probabilities_of_the_policy(running):
    engine, model, tokenizer = running
    (prompt,) = prompts_of(tokenizer, ["count"])
    norm = model.model.norm.weight
    with torch.no_grad():
        norm.mul_(4.0)  # peaked: 13 tokens are expected more than 5 times, not one
        engine.weights_updated()
        (group,) = generate(engine, [prompt], Sampling(512, 1, temperature=0.5))
        logits = model(torch.tensor([prompt.token_ids]), use_cache=False).logits[0, -1]
        norm.div_(4.0)
    engine.weights_updated()
    counts = torch.bincount(torch.tensor([r.token_ids[0] for r in group.rollouts]), minlength=259)
    expected = 512 * (logits / 0.5).softmax(-1)
    statistic, bins = chi_square(counts, expected)
    bound = bins + 5 * (2 * bins) ** 0.5
    assert statistic < bound
    for temperature in (1.0, 100.0):  # the bound tells other distributions apart
        assert chi_square(512 * (logits / temperature).softmax(-1), expected)[0] > 5 * bound


def test_every_stop_token_ends_a_completion_and_belongs_to_it(running):
    engine, _, tokenizer = running
    groups = generate(engine, prompts_of(tokenizer, ["one", "two"]), Sampling(16, 100))
    rollouts = [r for group in groups for r in group.rollouts]
    assert {r.token_ids[-1] for r in rollouts if r.finish_reason == "stop"} == {2, 77}
    assert not any({2, 77} & set(r.token_ids[:-1]) for r in rollouts)


def test_seeds_repeat_and_do_not_depend_on_the_batch(running):
    engine, _, tokenizer = running
    prompts = prompts_of(tokenizer, ["same", "same", "other one"])
    sampling = Sampling(4, 8)
    tokens = [[r.token_ids for r in g.rollouts] for g in generate(engine, prompts, sampling)]
    again = [[r.token_ids for r in g.rollouts] for g in generate(engine, prompts, sampling)]
    alone = [[r.token_ids for r in g.rollouts] for g in generate(engine, prompts[:1], sampling)]
    other = [[r.token_ids for r in g.rollouts] for g in generate(engine, prompts, sampling, 1)]
    assert tokens == again and alone == tokens[:1]
    assert len({t for group in tokens[:2] for t in group}) == 8  # equal prompts, other noise
    assert tokens != other


def test_rollouts_arrive_as_they_finish(running):
    engine, _, tokenizer = running
    (prompt,) = prompts_of(tokenizer, ["one"])
    started, arrivals = time.monotonic(), {}
    for index, sample, _ in engine.generate([prompt], Sampling(24, 100), [10]):  # 16 at a time
        arrivals[index, sample] = time.monotonic() - started
    assert sorted(arrivals) == [(0, j) for j in range(24)]
    # the group is not held back until the eight that had to wait are done
    assert min(arrivals.values()) < 0.85 * max(arrivals.values())


def test_a_token_budget_cuts_the_stragglers(running, request):
    engine, _, tokenizer = running
    prompts = prompts_of(tokenizer, ["one", "two"])
    sampling, seeds = Sampling(4, 200), [1, 1000]
    whole = list(engine.generate(prompts, sampling, seeds))
    assert sum(len(r.token_ids) for *_, r in whole) > 400
    cut = {
        (i, j): r for i, j, r in engine.generate(prompts, sampling, seeds, Budget(max_tokens=200))
    }
    assert len(cut) == 8 and any(r.finish_reason == "cut" for r in cut.values())
    tokens_a_report = {"vllm": 16, "transformers": 1}[request.node.callspec.params["running"]]
    assert 200 <= sum(len(r.token_ids) for r in cut.values()) < 200 + 8 * tokens_a_report
    for i, j, rollout in whole:  # what is there is a prefix of the uncut one
        size = len(cut[i, j].token_ids)
        assert cut[i, j].token_ids == rollout.token_ids[:size]
        torch.testing.assert_close(
            torch.tensor(cut[i, j].sampler_logprob),
            torch.tensor(rollout.sampler_logprob[:size]),
            rtol=0,
            atol=1e-5,
        )


def test_a_budget_is_spent_when_it_is_reached():
    tokens = Budget(max_tokens=8)
    assert [BudgetMeter(tokens, n).is_spent() for n in (7, 8, 9)] == [False, True, True]
    assert not BudgetMeter(Budget(), 10**9).is_spent()
    assert BudgetMeter(Budget(max_seconds=0.0)).is_spent()
    assert not BudgetMeter(Budget(max_tokens=1, max_seconds=60.0)).is_spent()


def test_a_time_budget_ends_the_wait(running):
    engine, _, tokenizer = running
    prompts = prompts_of(tokenizer, ["one", "two"])
    started = time.monotonic()
    reasons = {
        r.finish_reason
        for *_, r in engine.generate(prompts, Sampling(32, 400), [1, 99], Budget(max_seconds=0.2))
    }
    assert "cut" in reasons and time.monotonic() - started < 10


def test_a_caller_that_stops_early_leaves_the_engine_usable(running):
    engine, _, tokenizer = running
    prompts = prompts_of(tokenizer, ["one", "two"])
    stream = engine.generate(prompts, Sampling(3, 50), [1, 99])
    next(stream)
    stream.close()
    engine.weights_updated()
    groups = generate(engine, prompts, Sampling(3, 5))
    assert [len(g.rollouts) for g in groups] == [3, 3]


def test_settings_of_the_checkpoint_do_not_leak_into_sampling(running):
    engine, model, tokenizer = running
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.top_k = 1
    (prompt,) = prompts_of(tokenizer, ["aaaaaa"])
    (group,) = generate(engine, [prompt], Sampling(4, 8))
    for rollout in group.rollouts:
        expected = trainer_logprobs(model, prompt, rollout)
        torch.testing.assert_close(
            torch.tensor(rollout.sampler_logprob), expected, rtol=0, atol=1e-4
        )
    assert model.generation_config.top_k == 1


@pytest.mark.parametrize("was_training", [True, False])
def test_the_trainer_is_left_as_it_was(checkpoint, was_training):
    folder = checkpoint("qwen2")
    model, tokenizer = load(folder)
    engine = start("transformers", folder, model, tokenizer, max_num_seqs=2)
    model.set_attn_implementation("eager")
    model.config.use_cache = False
    model.train(was_training)

    def settings():
        config = model.config
        of_config = config._attn_implementation, config.use_cache
        return *of_config, model.training, model.generation_config.eos_token_id

    before = settings()
    assert before == ("eager", False, was_training, [2])
    prompts = prompts_of(tokenizer, ["one", "two"])
    generate(engine, prompts, Sampling(2, 3))
    assert settings() == before
    stream = engine.generate(prompts, Sampling(2, 3), [1, 99])  # two batches
    next(stream)
    assert settings() == before
    stream.close()
    outside = Prompt("0", "", (10**6,), None, {})
    with pytest.raises(IndexError):
        next(engine.generate([outside], Sampling(1, 3), [1]))
    assert settings() == before
