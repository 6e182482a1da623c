"""~ in every path that a command takes."""

import json

import pytest
from cli.tiny_runs import completed, run_train, train_rows, write_policy, write_rows

from nsr_fast.cli import main


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_run_takes_it_everywhere(home, capsys):
    write_policy(home / "policy")
    for name in ("data", "eval"):
        write_rows(home / f"{name}.jsonl", train_rows())
    keys = {"data": "~/data.jsonl", "eval_data": "~/eval.jsonl"}
    keys |= {"output_dir": "~/run", "reward": "~/files/reward.py:parity", "eval_num_samples": 2}
    run = completed(run_train(home / "files", "~/policy", **keys, max_rounds=1))
    assert len((home / "run" / "metrics.jsonl").read_text().splitlines()) == 1, run.out
    (home / "run" / "report.html").unlink()
    assert main(["report", "~/run"]) == 0 and (home / "run" / "report.html").is_file()
    assert main(["resume", "~/run", "--max_rounds", "2"]) == 0
    assert len((home / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    forked = ["--resume_from_checkpoint", "~/run/checkpoints/last", "--output_dir", "~/fork"]
    assert main(["resume", "~/run", "--max_rounds", "3", *forked]) == 0
    lines = (home / "fork" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3]
    capsys.readouterr()


def test_verify_takes_it(home, capsys):
    cases = [{"response": r"\boxed{4}", "answer": "4", "expected": "correct"}]
    write_rows(home / "cases.jsonl", cases)
    assert main(["verify", "--data", "~/cases.jsonl"]) == 0
    capsys.readouterr()
