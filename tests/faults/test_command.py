"""The command as a user starts it, through vLLM, from its first import to its end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli.tiny_runs import train_rows, write_rows
from faults.processes import KEYS, in_session, options, wait_until
from run_bits import difference

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
pytest.importorskip("vllm")
ROOT = Path(__file__).parents[2]
VLLM = {"engine": "vllm", "kv_cache_gib": 0.1, "max_rounds": 60, "reward": "math"}
VLLM |= {"eval_rounds": None, "eval_num_samples": None}
VLLM |= {"sample_rollouts": 3, "save_rounds": 0, "max_no_answer": "none"}


def command(folder, *words):
    """In a session of its own."""
    log = open(folder / "log", "a")  # noqa: SIM115
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "nsr_fast.cli", *map(str, words)],
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def catches(pid, number):
    text = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in text.splitlines() if line.startswith("SigCgt"))
    return int(mask, 16) >> (number - 1) & 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_command_is_stopped_at_any_moment_and_resumed(policy, tmp_path, number, code):
    """In its imports nothing is there yet; in its rounds the last whole one is saved."""
    rows = write_rows(policy.parent / "train.jsonl", train_rows())
    keys = KEYS | VLLM | {"model": policy, "data": rows}
    words = ["train", *options(keys), "--output_dir", tmp_path / "run"]
    early = command(tmp_path, *words)
    wait_until(lambda: catches(early.pid, signal.SIGTERM))  # it is about to load torch
    os.killpg(early.pid, number)
    assert early.wait(60) == code and not (tmp_path / "run").exists()
    log = tmp_path / "log"
    assert log.read_text().splitlines()[-1].startswith("nsr-fast: stopped by SIG")
    running = command(tmp_path, *words)
    wait_until(lambda: "round 3/60" in log.read_text() or running.poll() is not None)
    os.killpg(running.pid, number)  # as a terminal does: to every process of the run
    assert running.wait(60) == code, log.read_text()
    assert f"nsr-fast resume {tmp_path / 'run'}" in log.read_text()
    assert in_session(running.pid) == []
    last = max(int(p.name[6:]) for p in (tmp_path / "run" / "checkpoints").glob("round-*"))
    resumed = command(tmp_path, "resume", tmp_path / "run", "--max_rounds", last + 2)
    assert resumed.wait(300) == 0, log.read_text()
    whole = [*options(keys | {"max_rounds": last + 2}), "--output_dir", tmp_path / "whole"]
    assert command(tmp_path, "train", *whole).wait(300) == 0
    assert difference(tmp_path / "whole", tmp_path / "run") is None
