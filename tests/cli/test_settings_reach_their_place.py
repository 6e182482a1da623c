"""Every setting changes what it says: one run a setting, its numbers against a formula.

The update's settings are compared with the first round written out in float64
(reference_update.py), which must differ from the one with the default value. The others are read
from the run's files, from what the reward was called with, or from what the engine was asked.
"""

import dataclasses

import pytest
import torch
from cli.reference_update import Rules, reference_update
from cli.tiny_runs import STOPS, completed, run_train, watched_engine, write_policy
from safetensors.torch import load_file
from transformers import Qwen2Model

from tests.checkpoints import byte_tokenizer

EVAL_ROWS = [{"id": f"e{i}", "prompt": f"{i}-1=", "answer": str(i - 1)} for i in range(5)]
OBJECTIVES = {"psr": (1.0, 0.0), "nsr": (0.0, -1.0), "reinforce": (1.0, -1.0)}
SEVERAL = {"objective": "reinforce", "minibatches": 2, "learning_rate": 1e-2}
# settings of the command line; those in the last column are taken back for the run without them
UPDATES = {
    "objective-psr": ({"objective": "psr"}, {"objective": "nsr"}),
    "objective-nsr": ({"objective": "nsr"}, {"objective": "reinforce"}),
    "objective-reinforce": ({"objective": "reinforce"}, {"objective": "nsr"}),
    "psr_weight": ({"objective": "w_reinforce", "psr_weight": 0.3}, {"psr_weight": 0.1}),
    "temperature": ({"temperature": 0.7}, {"temperature": 1.0}),
    "learning_rate": ({"learning_rate": 2e-3}, {"learning_rate": 1e-3}),
    "warmup_steps": ({"warmup_steps": 4}, {"warmup_steps": 0}),
    "weight_decay": ({"weight_decay": 5.0}, {"weight_decay": 0.01}),
    "max_grad_norm": ({**SEVERAL, "max_grad_norm": 0.01}, {"max_grad_norm": 1.0}),
    "minibatches": ({"minibatches": 3}, {"minibatches": 1}),
    "epsilon": ({**SEVERAL, "epsilon": 0.02}, {"epsilon": 0.2}),
    "epsilon_high": ({**SEVERAL, "epsilon": 0.05, "epsilon_high": 0.6}, {"epsilon_high": None}),
    "entropy_coef": ({"entropy_coef": 0.5}, {"entropy_coef": 0.0}),
    "importance_sampling_cap-one-step": (
        {"importance_sampling_cap": 1.2},
        {"importance_sampling_cap": None},
    ),
    "importance_sampling_cap-two-steps": (
        {**SEVERAL, "importance_sampling_cap": 1.2},
        {"importance_sampling_cap": None},
    ),
}


def rules_of(settings):
    names = {field.name for field in dataclasses.fields(Rules)}
    values = {name: value for name, value in settings.items() if name in names}
    objective = settings.get("objective", "nsr")
    positive, negative = OBJECTIVES.get(objective, (settings.get("psr_weight", 0.1), -1.0))
    return Rules(**values, positive_weight=positive, negative_weight=negative)


def sampler_offset(token):
    """What the capped runs add to the sampler's logprob of a token, so that ratios are not 1."""
    return (token % 3 - 1) * 0.7


def as_sampled(call, stream):
    return stream


def shifted(call, stream):
    for prompt, sample, rollout in stream:
        logprob = [
            value + sampler_offset(token)
            for token, value in zip(rollout.token_ids, rollout.sampler_logprob)
        ]
        yield prompt, sample, dataclasses.replace(rollout, sampler_logprob=tuple(logprob))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def run(policy, tmp_path):
    """run(key=value) -> a finished run of the tiny policy."""
    return lambda **settings: completed(run_train(tmp_path, policy, **settings))


def distance(weights, expected):
    """Norm of the difference over all weights."""
    parts = [(weights[name].double() - expected[name]).norm() ** 2 for name in weights]
    return float(torch.stack(parts).sum().sqrt())


@pytest.mark.parametrize("setting", UPDATES)
def test_update_is_the_formula_with_this_setting(policy, tmp_path, setting):
    settings, without = UPDATES[setting]
    has_cap = "importance_sampling_cap" in settings
    limit = {"drift_limit": 2.0} if has_cap else {}
    with watched_engine(shifted if has_cap else as_sampled):
        done = completed(run_train(tmp_path, policy, **settings, **limit))
    rules, default = rules_of(settings), rules_of({**settings, **without})
    expected, other = (
        reference_update(policy, done.trained(), byte_tokenizer().encode, each, sampler_offset)
        for each in (rules, default)
    )
    before, after = load_file(policy / "model.safetensors"), done.weights(1)
    step = distance(before, expected.weights)
    assert distance(other.weights, expected.weights) > 0.05 * step  # the setting can be seen
    assert distance(after, expected.weights) < 0.005 * step

    (metrics,) = done.metrics
    assert metrics["loss"] == pytest.approx(expected.loss, rel=1e-4, abs=1e-5)
    assert metrics["grad_norm"] == pytest.approx(expected.grad_norm, rel=1e-3)
    assert metrics["entropy_trained"] == pytest.approx(expected.entropy_trained, rel=1e-4)
    assert metrics["trained_tokens"] == expected.trained_tokens
    assert metrics["optimizer_steps"] == rules.minibatches
    share = min(1.0, (rules.minibatches + 1) / max(1, rules.warmup_steps))
    assert metrics["learning_rate"] == pytest.approx(rules.learning_rate * share)  # of the next
    assert (metrics["drift_mean"] < 1e-4) != has_cap
    check_trainer_state(done, expected, rules.minibatches)


def check_trainer_state(done, expected, steps):
    state = torch.load(done.checkpoint(1) / "trainer_state.pt", weights_only=True)
    assert state["round"] == 1
    assert state["optimizer"]["num_steps"] == steps
    saved = state["optimizer"]["parameters"]
    assert saved.keys() == expected.exp_avg.keys()
    for name, moment in expected.exp_avg.items():
        assert saved[name]["num_steps"] == steps
        assert float((saved[name]["exp_avg"].double() - moment).norm()) <= 5e-3 * moment.norm()


def test_trained_and_sampled_logprobs_are_those_of_the_temperature(run):
    (metrics,) = run(temperature=0.5).metrics
    assert metrics["drift_mean"] < 1e-4


def test_every_kind_of_stop_id_ends_a_completion_and_nothing_else_does(run):
    done = run(max_rounds=2, prompts_per_round=4)
    assert len(done.trained()) == 2 * 4 * 4
    last = set()
    for record in done.trained():
        *body, end = record["token_ids"]
        assert not set(body) & set(STOPS)
        assert (end in STOPS) == (record["finish_reason"] == "stop")
        assert end in STOPS or len(record["token_ids"]) == 8
        last.add(end)
    assert last & set(range(60, 100)) and last & set(range(200, 220))


def test_mask_truncated_completions_leaves_the_endless_ones_unscored(policy, tmp_path):
    graded = completed(run_train(tmp_path / "a", policy))
    masked = completed(run_train(tmp_path / "b", policy, mask_truncated_completions="true"))
    ids = [record["token_ids"] for record in graded.trained()]
    assert ids == [record["token_ids"] for record in masked.trained()]
    has_end = [token_ids[-1] in STOPS for token_ids in ids]
    assert 0 < sum(has_end) < len(ids)
    wrong = [token_ids[0] % 2 == 0 for token_ids in ids]
    (before,), (after,) = graded.metrics, masked.metrics
    assert before["num_unscored"] == 0
    assert before["trained_tokens"] == sum(len(t) for t, w in zip(ids, wrong) if w)
    assert after["num_unscored"] == has_end.count(False)
    kept = sum(len(t) for t, w, e in zip(ids, wrong, has_end) if w and e)
    assert after["trained_tokens"] == kept < before["trained_tokens"]


def test_sizes_of_a_round(run):
    done = run(prompts_per_round=3, num_generations=5, max_completion_length=4, max_rounds=2)
    assert len(done.metrics) == 2
    names = [record["id"] for record in done.trained()]
    assert len(names) == 2 * 3 * 5 and len(set(names[:15])) == 3
    assert all(names.count(name) == 5 for name in names)
    assert max(len(record["token_ids"]) for record in done.trained()) == 4


@pytest.mark.parametrize(
    ("settings", "rounds"),
    [
        ({}, [3]),
        ({"save_rounds": 1}, [1, 2, 3]),
        ({"save_rounds": 2}, [2, 3]),
    ],
)
def test_save_rounds(run, settings, rounds):
    done = run(max_rounds=3, **settings)
    saved = sorted(folder.name for folder in (done.folder / "checkpoints").iterdir())
    assert saved == ["last", *(f"round-{index}" for index in rounds)]
    assert (done.folder / "checkpoints" / "last").resolve() == done.checkpoint(3)
    for index in rounds:
        assert f"saved {done.checkpoint(index)}" in done.out


@pytest.mark.parametrize(("settings", "rounds"), [({}, [0, 3]), ({"eval_rounds": 1}, [0, 1, 2, 3])])
def test_eval_rounds_and_sizes(run, settings, rounds):
    sizes = {"eval_num_prompts": 3, "eval_num_samples": 2}
    done = run(max_rounds=3, eval_rows=EVAL_ROWS, **sizes, **settings)
    assert [line["round"] for line in done.evaluations] == rounds
    for line in done.evaluations:
        assert (line["num_prompts"], line["num_samples"], line["k"]) == (3, 2, [1, 2])
    evaluated = [r["id"] for call in done.scored for r in call if r["id"].startswith("e")]
    assert {*evaluated} == {"e0", "e1", "e2"} and len(evaluated) == 3 * 2 * len(rounds)


@pytest.mark.parametrize("count", [0, 3])
def test_sample_rollouts(run, count):
    assert len(run(sample_rollouts=count).lines("rollouts/round-1.jsonl")) == count


def test_sampling_and_budget_are_what_the_engine_is_asked_for(policy, tmp_path):
    settings = {"num_generations": 3, "temperature": 0.8, "top_p": 0.9, "top_k": 7}
    settings |= {"eval_num_samples": 5, "eval_temperature": 0.6, "eval_top_p": 0.95}
    settings |= {"round_token_budget": 1000, "round_seconds": 600.0, "max_completion_length": 6}
    with watched_engine() as watched:
        completed(run_train(tmp_path, policy, eval_rows=EVAL_ROWS, **settings))

    def asked(call):
        names = ("num_generations", "max_completion_length", "temperature", "top_p", "top_k")
        return tuple(getattr(call.sampling, name) for name in names)

    (training,) = watched.of_training()
    assert asked(training) == (3, 6, 0.8, 0.9, 7)
    assert (training.budget.max_tokens, training.budget.max_seconds) == (1000, 600.0)
    assert len(watched.of_evaluation()) == 2
    for call in watched.of_evaluation():
        assert asked(call) == (5, 6, 0.6, 0.95, 0)
        assert call.budget is None or call.budget.max_tokens is call.budget.max_seconds is None


def test_seed_changes_prompts_noise_and_evaluation(policy, tmp_path):
    def seen(seed, folder):
        with watched_engine() as watched:
            run = run_train(tmp_path / folder, policy, eval_rows=EVAL_ROWS, seed=seed, max_rounds=3)
        trained = [call.seed_of() for call in watched.of_training()]
        evaluated = [call.seed_of() for call in watched.of_evaluation()]
        return trained, evaluated, completed(run).trained()

    first, again, other = seen(4, "a"), seen(4, "b"), seen(5, "c")
    assert first == again
    assert [list(seeds) for seeds in first[0]] != [list(seeds) for seeds in other[0]]
    for mine, others in zip(first[:2], other[:2]):
        a, b = ({seed for call in calls for seed in call.values()} for calls in (mine, others))
        assert not a & b


def test_dtype_and_master_weights_are_those_of_the_checkpoint(run):
    for dtype, masters, has_master, has_seed in [
        ("float32", {}, False, False),
        ("bfloat16", {"master_weights": "device"}, True, False),
        ("bfloat16", {"master_weights": "stochastic"}, False, True),
    ]:
        done = run(dtype=dtype, **masters, overwrite="true")
        assert {t.dtype for t in done.weights(1).values()} == {getattr(torch, dtype)}
        state = torch.load(done.checkpoint(1) / "trainer_state.pt", weights_only=True)
        for parameter in state["optimizer"]["parameters"].values():
            assert (parameter["master"] is not None) == has_master
            assert (parameter["seed"] is not None) == has_seed


def test_drift_limit_stops_the_run(policy, tmp_path):
    done = run_train(tmp_path, policy, drift_limit=1e-12)
    assert done.code == 3 and "disagree by" in done.err
    assert "1e-12" in done.err


def test_evaluation_problems_in_the_training_data_are_named(policy, tmp_path):
    shared = [*EVAL_ROWS[:2], {"id": "e9", "prompt": "3+3=", "answer": "6"}]  # row t3
    for dry_run in ("true", "false"):
        done = run_train(tmp_path / dry_run, policy, eval_rows=shared, dry_run=dry_run)
        assert "1 evaluation problems are trained on: e9 = t3" in completed(done).out
    clean = run_train(tmp_path / "clean", policy, eval_rows=EVAL_ROWS, dry_run="true")
    assert "are trained on" not in completed(clean).out
    assert not clean.folder.exists()


def test_sizes_of_the_passes(run, monkeypatch):
    """What the model is called with, by torch's own sign: gradients are on in a training pass."""
    training, sampling, threads = [], [], set()
    forward = Qwen2Model.forward

    def seen(self, *args, **options):
        shape = tuple(options["input_ids"].shape)
        is_checkpointed = all(layer.gradient_checkpointing for layer in self.layers)
        (training if torch.is_grad_enabled() else sampling).append((*shape, is_checkpointed))
        threads.add(torch.get_num_threads())
        return forward(self, *args, **options)

    monkeypatch.setattr(Qwen2Model, "forward", seen)
    plain = run(prompts_per_round=4)
    assert len(training) == 1 and training[0][0] == 1 and training[0][2] is False
    assert max(rows for rows, *_ in sampling) == 16 and threads == {1}
    (_, tokens, _), *_ = training
    for seen_before in (training, sampling, threads):
        seen_before.clear()
    sizes = {"micro_batch_tokens": 24, "max_num_seqs": 3, "cpu_threads": 2}
    split = run(prompts_per_round=4, gradient_checkpointing="true", overwrite="true", **sizes)
    passes = [count for _, count, is_checkpointed in training if is_checkpointed]
    assert len(passes) == len(training) > 1
    assert max(passes) <= 24 and sum(passes) == tokens
    assert max(rows for rows, *_ in sampling) == 3 and threads == {2}
    torch.set_num_threads(1)
    assert split.metrics[0]["grad_norm"] == pytest.approx(plain.metrics[0]["grad_norm"], rel=1e-4)
