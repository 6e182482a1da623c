"""Data files of other forms than JSONL, and content in parts, through a run."""

import json

import pytest
from cli.tiny_runs import completed, run_train, write_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


def refused(run, *parts):
    assert run.code == 2, run.out
    assert len(run.err.strip().splitlines()) == 1
    for part in parts:
        assert part in run.err


@pytest.mark.parametrize("name", ["rows.csv", "rows.json", "one_line.json", "below.json"])
def test_files_of_other_forms(policy, tmp_path, name):
    rows = [{"id": f"t{i}", "question": f'{i}, "+"\n1=', "answer": str(i + 1)} for i in range(2)]
    texts = {
        "rows.csv": 'id,question,answer\nt0,"0, ""+""\n1=",1\nt1,"1, ""+""\n1=",2\n',
        "rows.json": json.dumps(rows, indent=2),
        "one_line.json": json.dumps(rows),
        "below.json": json.dumps({"version": 1, "data": rows}, indent=1),
    }
    (tmp_path / name).write_text(texts[name])
    run = completed(run_train(tmp_path / "a", policy, data=tmp_path / name))
    prompts = {r["id"]: r["prompt"] for r in run.trained()}
    assert prompts == {row["id"]: row["question"] for row in rows}


def test_broken_files_name_the_place(policy, tmp_path):
    broken = {
        "a.json": ('[\n {"prompt": "p"},\n {"prompt": }\n]', "a.json:3", "column 13"),
        "b.csv": ("prompt,answer\np,1,2\n", "b.csv:2", "expected 2 cells"),
        "c.csv": ("prompt,answer\np,\n", "c.csv:2", "no answer"),
    }
    for name, (text, *parts) in broken.items():
        (tmp_path / name).write_text(text)
        run = run_train(tmp_path / f"{name}.d", policy, data=tmp_path / name, reward="math")
        refused(run, *parts)


def test_content_in_parts(policy, tmp_path):
    parts = [{"type": "text", "text": "1+"}, {"type": "text", "text": "1="}]
    rows = [{"id": "t0", "prompt": [{"role": "user", "content": parts}], "answer": "2"}]
    run = completed(run_train(tmp_path / "a", policy, rows=rows))
    (turn,) = run.trained()[0]["prompt"]  # a chat prompt stays one for the reward
    assert turn == {"role": "user", "content": "1+1="}
    parts.append({"type": "image", "image": "x.png"})
    refused(run_train(tmp_path / "b", policy, rows=rows), "prompt: expected text or a list")
