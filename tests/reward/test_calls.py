"""How often a run calls a user's reward function: once a round, with every completion."""

import json

import pytest

from nsr_fast.cli import main

CODE = """
import json
from pathlib import Path

def recorded(name, prompts, completions, completion_ids, answer, finish_reason):
    assert len(completions) == len(completion_ids) == len(answer) == len(finish_reason)
    with open(Path(__file__).with_name(name), "a") as file:
        file.write(json.dumps(prompts) + "\\n")
    return [1.0 if ids[0] % 2 else -1.0 for ids in completion_ids]

def f(prompts, completions, completion_ids, answer, finish_reason):
    return recorded("f", prompts, completions, completion_ids, answer, finish_reason)

async def g(prompts, completions, completion_ids, answer, finish_reason, **columns):
    return recorded("g", prompts, completions, completion_ids, answer, finish_reason)
"""


@pytest.mark.parametrize(
    ("reward", "called"),
    [
        ("{0}:f", ["f"]),
        ("math, {0}:f", ["f"]),
        ("{0}:f * 0.5, {0}:g", ["f", "g"]),
    ],
)
def test_a_users_function_is_called_once_a_round_with_whole_groups(
    checkpoint, tmp_path, reward, called
):
    (tmp_path / "my.py").write_text(CODE)
    rows = [{"prompt": f"{i} + {i} =", "answer": str(2 * i)} for i in range(2)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model": checkpoint("qwen2"),
        "data": tmp_path / "data.jsonl",
        "reward": reward.format(tmp_path / "my.py"),
        "output_dir": tmp_path / "run",
        "template": "none",
        "engine": "transformers",
        "prompts_per_round": 2,
        "num_generations": 3,
        "max_completion_length": 8,
        "max_rounds": 2,
        "cpu_threads": 1,
        "max_truncated": "none",
    }
    assert main(["train", *(word for k, v in settings.items() for word in (f"--{k}", str(v)))]) == 0
    for name in called:
        trial, *rounds = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert trial == ["0 + 0 ="] * 3
        assert [len(prompts) for prompts in rounds] == [6, 6]
        for prompts in rounds:  # the three completions of a prompt come one behind the other
            assert prompts == [p for p in dict.fromkeys(prompts) for _ in range(3)]
            assert len(set(prompts)) == 2
