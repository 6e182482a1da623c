"""Data sets as strangers have them train two rounds as they come."""

import dataclasses
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from cli.tiny_runs import completed, run_train, watched_engine, write_policy

KEYS = {"max_rounds": 2, "max_prompt_length": 600, "template": "qwen", "save_rounds": 2}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


def every_second(text_of):
    """Every second completion says what text_of makes of its prompt, the others what they said."""

    def change(call, stream):
        for prompt, sample, rollout in stream:
            if sample % 2:
                rollout = dataclasses.replace(rollout, text=text_of(call.prompts[prompt]))
            yield prompt, sample, rollout

    return change


def check_two_rounds(run):
    assert len(completed(run).metrics) == 2
    for metrics in run.metrics:
        assert metrics["reward"] == 0.5 and metrics["num_unscored"] == 0
        assert metrics["trained_tokens"] > 0
    assert run.checkpoint(2).is_dir()


def test_rows_of_gsm8k(policy, tmp_path):
    rows = [
        {
            "question": f"Mia has {n} pens and buys {n} more. How many pens has she now?",
            "answer": f"She has {n}+{n}=<<{n}+{n}={2 * n}>>{2 * n} pens.\n#### {2 * n}",
        }
        for n in range(3, 9)
    ]

    def boxed(prompt):
        return rf"so \boxed{{{prompt.columns['answer'].rpartition(' ')[2]}}}"

    with watched_engine(every_second(boxed)):
        check_two_rounds(run_train(tmp_path, policy, rows=rows, reward="math", **KEYS))


def test_parquet_of_verl(policy, tmp_path):
    rows = [
        {
            "data_source": "own",
            "prompt": [{"role": "user", "content": f"What is {n} times 3?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(3 * n)},
            "extra_info": {"split": "train", "index": n},
        }
        for n in range(6)
    ]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    keys = {"data": tmp_path / "train.parquet", "reward": "math", **KEYS}
    with watched_engine(every_second(lambda prompt: rf"\boxed{{{prompt.answer}}}")):
        check_two_rounds(run_train(tmp_path / "a", policy, **keys))


def test_rows_of_apps(policy, tmp_path):
    rows = [
        {
            "problem_id": n,
            "question": f"Read a number and print it plus {n}.",
            "solutions": json.dumps([f"print(int(input()) + {n})"]),
            "input_output": json.dumps(
                {"inputs": ["1\n", "5\n"], "outputs": [f"{1 + n}\n", f"{5 + n}\n"]}
            ),
            "difficulty": "introductory",
            "starter_code": "",
        }
        for n in range(3)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def program(prompt):
        return f"```python\n{json.loads(prompt.columns['solutions'])[0]}\n```"

    keys = {"data": tmp_path / "train.jsonl", "reward": "code", "unsafe": "true", **KEYS}
    with watched_engine(every_second(program)):
        check_two_rounds(run_train(tmp_path / "a", policy, **keys))
