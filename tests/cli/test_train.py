"""`nsr-fast train` from JSONL to a saved checkpoint, through the real vLLM."""

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from nsr_fast.cli import main

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

REWARD = """
import json
from pathlib import Path

def every_other(prompts, completions, completion_ids, id, answer, **columns):
    assert len(prompts) == len(completions) == len(completion_ids) == len(answer)
    if completions[0].endswith("boxed{0}."):  # the trial call
        return [1.0] * len(completions)
    rewards = [1.0 if ids[0] % 2 else -1.0 for ids in completion_ids]
    with Path(__file__).with_name("scored.jsonl").open("a") as file:
        for row, ids, reward in zip(id, completion_ids, rewards):
            file.write(json.dumps([row, len(ids), reward]) + "\\n")
    return rewards

def wrong_length(prompts, completions, completion_ids, **columns):
    return [1.0]
"""
SETTINGS = {
    "max_rounds": 2,
    "prompts_per_round": 4,
    "num_generations": 4,
    "max_completion_length": 8,
    "max_prompt_length": 400,
    "learning_rate": 1e-3,
    "max_num_seqs": 16,
    "cpu_threads": 1,
    "max_truncated": "none",  # a random policy hardly ever stops
}


def options(settings):
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


@pytest.fixture
def nsr_fast(capsys):
    """nsr_fast("train", key=value) -> exit code and output of the command, in this process."""

    def call(*words, **settings):
        code = main([*words, *options(settings)])
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return call


def nsr_fast_process(*words, **settings):
    """The command in a process of its own, as a user runs it."""
    command = [sys.executable, "-m", "nsr_fast.cli", *words, *options(settings)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def inputs(tmp_path):
    rows = [{"problem": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(6)]
    for name, prefix in [("data", "t"), ("eval", "e")]:
        lines = [json.dumps({"id": f"{prefix}{i}", **row}) + "\n" for i, row in enumerate(rows)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    (tmp_path / "reward.py").write_text(REWARD)
    return tmp_path


@pytest.mark.parametrize(
    ("family", "template", "objective"),
    [
        ("qwen2", "qwen", "nsr"),
        ("qwen3", "qwen3_no_thinking", "w_reinforce"),
        ("llama", "llama", "reinforce"),
    ],
)
def test_two_rounds_change_and_save_the_weights(
    nsr_fast, inputs, checkpoint, family, template, objective
):
    base, run = checkpoint(family), inputs / "run"
    done = nsr_fast(
        "train",
        model=base,
        data=inputs / "data.jsonl",
        eval_num_samples=4,
        eval_data=inputs / "eval.jsonl",
        reward=f"{inputs}/reward.py:every_other",
        output_dir=run,
        template=template,
        objective=objective,
        minibatches=2 if family == "qwen3" else 1,
        **SETTINGS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    scored = read_lines(inputs / "scored.jsonl")
    check_metrics(run, objective, scored, steps=2 if family == "qwen3" else 1)
    check_checkpoint(base, run / "checkpoints" / "round-2")
    evaluations = read_lines(run / "eval.jsonl")
    assert [e["round"] for e in evaluations] == [0, 2]
    assert "<svg" in (run / "report.html").read_text()
    check_summary(done.stdout, evaluations, scored)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_metrics(run, objective, scored, steps):
    """scored: [row, tokens, reward] of every completion; a round has 4 x 4 of the rows t0, ..."""
    rounds = read_lines(run / "metrics.jsonl")
    trained = [record for record in scored if record[0].startswith("t")]
    assert [metrics["round"] for metrics in rounds] == [1, 2] and len(trained) == 2 * 16
    for index, metrics in enumerate(rounds):
        assert math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])
        assert metrics["drift_mean"] < 1e-4 and metrics["optimizer_steps"] == steps
        records = trained[16 * index : 16 * index + 16]
        total = sum(tokens for _, tokens, _ in records)
        wrong = sum(tokens for _, tokens, reward in records if reward < 0)
        weighted = wrong if objective == "nsr" else total  # NSR trains on wrong rollouts only
        assert 0 < wrong < total == metrics["num_tokens"]
        assert metrics["trained_tokens"] == weighted
        assert metrics["trained_fraction"] == weighted / total
        assert metrics["reward"] == sum(reward > 0 for *_, reward in records) / 16


def check_summary(printed, evaluations, scored):
    """Pass@1 is the share of right completions, Pass@4 that of problems with one; 6 problems."""
    rewards = [(row, reward) for row, _, reward in scored if row.startswith("e")]
    assert len(rewards) == 2 * 6 * 4
    lines = printed.splitlines()
    (title,) = [line for line in lines if line.startswith("Pass@k on 6 problems, 4 samples each")]
    at_1, _, at_4 = lines[lines.index(title) + 2 :][:3]
    first, last = rewards[:24], rewards[24:]
    for part, evaluation in zip((first, last), evaluations, strict=True):
        right = [row for row, reward in part if reward > 0]
        assert evaluation["num_correct"] == [right.count(f"e{i}") for i in range(6)]
    one = [sum(reward > 0 for _, reward in part) / 24 for part in (first, last)]
    four = [len({row for row, reward in part if reward > 0}) / 6 for part in (first, last)]
    for line, k, (before, after) in [(at_1, "1", one), (at_4, "4", four)]:
        numbers = [word for word in line.split() if word[0] != "[" and word[-1] != "]"]
        assert numbers[0] == k
        expected = [before, after, after - before]
        assert [float(word) for word in numbers[1:]] == pytest.approx(expected, abs=6e-4)


def check_checkpoint(base, folder):
    old, new = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    assert old.keys() == new.keys()
    assert {name: t.dtype for name, t in old.items()} == {name: t.dtype for name, t in new.items()}
    changed = [name for name in old if not torch.equal(old[name], new[name])]
    assert "model.layers.0.self_attn.q_proj.weight" in changed and len(changed) > len(old) // 2
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(
        model.model.layers[1].mlp.up_proj.weight, new["model.layers.1.mlp.up_proj.weight"]
    )
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == 2


def test_checkpoint_is_a_model_that_vllm_trains_on(nsr_fast, inputs, checkpoint):
    keys = {
        "data": inputs / "data.jsonl",
        "reward": f"{inputs}/reward.py:every_other",
        "template": "none",
        **SETTINGS,
        "max_rounds": 1,
    }
    first = nsr_fast("train", model=checkpoint("qwen2"), output_dir=inputs / "a", **keys)
    assert first.returncode == 0, first.stderr[-3000:]
    second = nsr_fast(
        "train", model=inputs / "a/checkpoints/round-1", output_dir=inputs / "b", **keys
    )
    assert second.returncode == 0, second.stderr[-3000:]


def test_the_transformers_engine_trains_too_and_cut_stragglers_are_unscored(
    nsr_fast, inputs, checkpoint
):
    base, run = checkpoint("qwen2"), inputs / "run"
    done = nsr_fast(
        "train",
        model=base,
        data=inputs / "data.jsonl",
        reward=f"{inputs}/reward.py:every_other",
        output_dir=run,
        template="none",
        engine="transformers",
        round_token_budget=100,  # of at most 4 x 4 x 8
        objective="reinforce",
        **{**SETTINGS, "max_num_seqs": 8},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "starting transformers" in done.stdout
    check_checkpoint(base, run / "checkpoints" / "round-2")
    rounds = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for metrics in rounds:
        assert metrics["num_cut"] == metrics["num_unscored"] > 0
        assert metrics["trained_tokens"] < metrics["num_tokens"] < 128
        assert metrics["drift_mean"] < 1e-4


def test_rounds_that_train_nothing_say_why(nsr_fast, inputs, checkpoint):
    done = nsr_fast(
        "train",
        model=checkpoint("qwen2"),
        data=inputs / "data.jsonl",
        reward=f"{inputs}/reward.py:every_other",
        output_dir=inputs / "run",
        template="none",
        engine="transformers",
        round_token_budget=1,
        **SETTINGS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "round 2: no rollout carried a weight, nothing was trained: 16 cut" in done.stdout


def test_sigterm_ends_a_run_with_its_report(inputs, checkpoint):
    keys = {"model": checkpoint("qwen2"), "data": inputs / "data.jsonl", "template": "none"}
    keys |= {"reward": f"{inputs}/reward.py:every_other", "engine": "transformers"}
    keys |= {**SETTINGS, "output_dir": inputs / "run", "max_rounds": 100_000}
    command = [sys.executable, "-m", "nsr_fast.cli", "train", *options(keys)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert any(line.startswith("round 2/") for line in process.stdout)
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and err.strip().endswith("nsr-fast: stopped by SIGTERM")
    assert "stopped; report" in out and (inputs / "run" / "report.html").is_file()


def test_reward_of_the_wrong_length_ends_in_one_line_with_code_2(nsr_fast, inputs, checkpoint):
    done = nsr_fast(
        "train",
        model=checkpoint("qwen2"),
        data=inputs / "data.jsonl",
        reward=f"{inputs}/reward.py:wrong_length",
        output_dir=inputs / "run",
        template="none",
        **SETTINGS,
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("nsr-fast: ") and "wrong_length" in last and "expected 4 rewards" in last
    assert "Traceback" not in done.stderr


def test_drift_over_the_limit_stops_the_run_with_code_3(inputs, checkpoint):
    done = nsr_fast_process(
        "train",
        model=checkpoint("qwen2"),
        data=inputs / "data.jsonl",
        reward=f"{inputs}/reward.py:every_other",
        output_dir=inputs / "run",
        template="none",
        drift_limit=1e-12,
        **SETTINGS,
    )
    assert done.returncode == 3
    assert "disagree by" in done.stderr.strip().splitlines()[-1]
