"""What a run hands from part to part: prompts, noise, rewards, and how it ends."""

import dataclasses
from itertools import chain

import pytest
from cli import seams
from cli.tiny_runs import completed, run_train, train_rows, watched_engine, write_policy

from nsr_fast.cli import main
from nsr_fast.errors import EngineFailure

EVAL_ROWS = [{"id": f"e{i}", "prompt": f"{i}-1=", "answer": "7"} for i in range(5)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


def is_right(prompt_id, sample):
    """Which samples the fake of the next fixture makes right: another pattern for every row."""
    return (int(prompt_id[1:]) + sample) % 3 == 0


def answered(call, stream):
    """The real rollouts, last sample first, sample j cut to 2 + j tokens with a known answer."""
    for prompt, sample, rollout in sorted(stream, key=lambda item: (-item[1], item[0])):
        row, size = call.prompts[prompt], 2 + sample
        answer = row.answer if is_right(row.id, sample) else "-1"
        yield (
            prompt,
            sample,
            dataclasses.replace(
                rollout,
                token_ids=rollout.token_ids[:size],
                sampler_logprob=rollout.sampler_logprob[:size],
                text=f"row {row.id} sample {sample}: \\boxed{{{answer}}}",
            ),
        )


@pytest.fixture(scope="module")
def wired(tmp_path_factory, checkpoint):
    """(run, watched engine): six rows, three rounds of two, the math reward, NSR; sample_rollouts
    keeps all. One stop id of 259, so that hardly a completion ends before its cut."""
    folder = tmp_path_factory.mktemp("wired")
    keys = {"max_rounds": 3, "num_generations": 4, "sample_rollouts": 100, "seed": 1}
    with watched_engine(answered) as watched:
        run = run_train(
            folder, checkpoint("qwen2"), reward="math", eval_rows=EVAL_ROWS, eval_rounds=1, **keys
        )
    return completed(run), watched


def test_every_row_is_trained_on_once_an_epoch(wired):
    _, watched = wired
    rounds = [[prompt.id for prompt in call.prompts] for call in watched.of_training()]
    assert [len(names) for names in rounds] == [2, 2, 2]
    assert sorted(chain(*rounds)) == [row["id"] for row in train_rows()]


def test_every_round_and_prompt_has_noise_of_its_own(wired):
    _, watched = wired
    seeds = [seed for call in watched.of_training() for seed in call.seeds]
    assert len(set(seeds)) == 3 * 2
    assert not set(seeds) & {seed for call in watched.of_evaluation() for seed in call.seeds}


def test_noise_of_a_prompt_that_comes_again_is_new(policy, tmp_path):
    """All rows in each of three rounds: no (row, seed) pair and no seed may return."""
    with watched_engine() as watched:
        completed(run_train(tmp_path, policy, max_rounds=3, prompts_per_round=6))
    seeds = [seed for call in watched.of_training() for seed in call.seeds]
    assert len(set(seeds)) == len(seeds) == 3 * 6


def test_evaluations_are_paired_by_their_noise(wired):
    _, watched = wired
    first, *others = [call.seed_of() for call in watched.of_evaluation()]
    assert len(set(first.values())) == len(EVAL_ROWS) and len(others) == 3
    assert all(seeds == first for seeds in others)


def test_rewards_belong_to_the_texts_they_are_written_with(wired):
    run, watched = wired
    answers = {row["id"]: row["answer"] for row in train_rows()}
    for index, call in enumerate(watched.of_training(), 1):
        records = run.lines(f"rollouts/round-{index}.jsonl")
        names = [prompt.id for prompt in call.prompts]
        assert [r["id"] for r in records] == [name for name in names for _ in range(4)]
        for position, record in enumerate(records):
            name, sample = names[position // 4], position % 4
            assert record["text"].startswith(f"row {name} sample {sample}:")
            is_stated = f"\\boxed{{{answers[name]}}}" in record["text"]
            assert is_stated == is_right(name, sample)
            assert record["reward"] == (1.0 if is_stated else -1.0)


def test_only_the_wrong_rollouts_are_trained_on(wired):
    """NSR. Sample j has 2 + j tokens, so a reward given to another sample changes the sum."""
    run, watched = wired
    for metrics, call in zip(run.metrics, watched.of_training(), strict=True):
        lengths = {key: len(rollout.token_ids) for key, rollout in call.given.items()}
        right = {(i, j): is_right(call.prompts[i].id, j) for i in range(2) for j in range(4)}
        assert len(set(lengths.values())) == 4
        assert metrics["num_tokens"] == sum(lengths.values())
        assert metrics["trained_tokens"] == sum(lengths[key] for key in right if not right[key])
        assert metrics["reward"] == sum(right.values()) / 8
        assert metrics["frac_all_correct"] == metrics["frac_all_wrong"] == 0.0


def test_evaluation_counts_the_right_answers(wired):
    run, _ = wired
    expected = [sum(is_right(row["id"], sample) for sample in range(4)) for row in EVAL_ROWS]
    assert len(run.evaluations) == 4 and len(set(expected)) == 2
    assert all(line["num_correct"] == expected for line in run.evaluations)


@pytest.mark.parametrize("objective", ["nsr", "w_reinforce"])
def test_rows_of_a_user_reward_are_the_engines_rollouts_in_any_order(policy, tmp_path, objective):
    """Parity of the first token: a reward that reached another rollout would change the count."""
    with watched_engine(lambda call, stream: stream[::-1]) as watched:
        run = completed(run_train(tmp_path, policy, objective=objective, max_rounds=2))
    (first, second) = [call for call in run.scored if call[0]["id"].startswith("t")]
    for records, call, metrics in zip((first, second), watched.of_training(), run.metrics):
        assert [r["id"] for r in records] == [p.id for p in call.prompts for _ in range(4)]
        wrong = sum(len(r["token_ids"]) for r in records if r["token_ids"][0] % 2 == 0)
        total = sum(len(r["token_ids"]) for r in records)
        assert 0 < wrong < total == metrics["num_tokens"]
        assert metrics["trained_tokens"] == (wrong if objective == "nsr" else total)


def test_an_engine_that_fails_ends_the_run_with_code_1_and_one_line(policy, tmp_path):
    def broken(call, stream):
        if call.is_training:
            raise EngineFailure("the engine stopped:\n out of memory")
        return stream

    with watched_engine(broken):
        run = run_train(tmp_path, policy, eval_rows=EVAL_ROWS)
    assert run.code == 1
    assert run.err == "nsr-fast: the engine stopped: out of memory\n"


@pytest.mark.parametrize(("is_good", "code"), [(True, 0), (False, 1)])
def test_check_exits_with_what_it_found(monkeypatch, is_good, code):
    monkeypatch.setattr(seams.RUN_CHECK, lambda: is_good)
    assert main(["check"]) == code
