"""The demo's base policy and data: they load, round-trip, and solve what README says."""

from pathlib import Path

import pytest
import torch
from problems import distinct_problems
from transformers import AutoModelForCausalLM, AutoTokenizer

from nsr_fast.cli import main
from nsr_fast.config_groups import DataKeys
from nsr_fast.data import load_prompts, read_rows
from nsr_fast.reward import load_reward
from nsr_fast.reward.countdown import is_solution, parse_problem

EXAMPLE = Path(__file__).parents[2] / "examples" / "countdown"
SAMPLED_ACCURACY = (0.18, 0.40)
GREEDY_ACCURACY = (0.4, 0.8)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(EXAMPLE / "base", local_files_only=True)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(EXAMPLE / "base", local_files_only=True)


def test_checkpoint_is_a_small_float32_qwen2(model):
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert (EXAMPLE / "base" / "model.safetensors").stat().st_size <= 4_000_000
    assert model.generation_config.eos_token_id == model.config.eos_token_id


def test_token_ids_are_fixed(tokenizer, model):
    assert len(tokenizer) == model.config.vocab_size == 110
    signs = tokenizer("+-*/=,>:", add_special_tokens=False)["input_ids"]
    assert [tokenizer.eos_token_id, tokenizer.unk_token_id, *signs] == list(range(10))
    for number in range(100):
        ids = tokenizer(str(number), add_special_tokens=False)["input_ids"]
        assert ids == [10 + number]


@pytest.mark.parametrize("name", ["train.jsonl.gz", "eval.jsonl.gz"])
def test_every_problem_round_trips(tokenizer, name):
    keys = DataKeys(data=str(EXAMPLE / name), template="none", max_prompt_length=8)
    prompts = load_prompts(read_rows(keys.data), keys, tokenizer)
    for prompt in prompts:
        assert len(prompt.token_ids) == 8
        assert tokenizer.decode(prompt.token_ids) == prompt.columns["prompt"]
    trace = "30-7=23,3*23=69"
    ids = tokenizer(trace, add_special_tokens=False)["input_ids"]
    assert len(ids) == 11
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == trace


def test_committed_data_is_what_the_documented_command_writes():
    for name, split, num, seed in [("train", "train", 4096, 0), ("eval", "eval", 128, 100)]:
        rows = read_rows(EXAMPLE / f"{name}.jsonl.gz")
        assert [row["id"] for row in rows] == [p.key for p in distinct_problems(split, num, seed)]


def test_accuracy_is_within_the_stated_range(model, tokenizer):
    rows = read_rows(EXAMPLE / "eval.jsonl.gz", limit=48)
    ids = tokenizer([row["prompt"] for row in rows], return_tensors="pt")
    torch.manual_seed(0)
    for samples, (low, high) in [(1, GREEDY_ACCURACY), (8, SAMPLED_ACCURACY)]:
        tokens = model.generate(
            **ids,
            max_new_tokens=20,
            do_sample=samples > 1,
            num_return_sequences=samples,
        )
        texts = tokenizer.batch_decode(tokens[:, 8:], skip_special_tokens=True)
        answers = [row["answer"] for row in rows for _ in range(samples)]
        rewards = load_reward("countdown")(texts, texts, texts, answer=answers)
        accuracy = sum(reward > 0 for reward in rewards) / len(rewards)
        assert low <= accuracy <= high, f"{samples} samples: {accuracy:.3f}"
    assert not is_solution("", *parse_problem(rows[0]["answer"]))


def test_the_demos_settings_pass_every_check(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(EXAMPLE.parents[1])  # its paths are relative to the repository
    words = ["--config", "examples/countdown/nsr.yaml", "--dry_run", "true"]
    assert main(["train", *words, "--output_dir", str(tmp_path / "run")]) == 0
    assert "4096 prompts of 8 to 8 tokens, 128 evaluation problems" in capsys.readouterr().out
