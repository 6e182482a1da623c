"""What fails inside a run: a full disk, a damaged file, a reward, the engine."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from faults.places import Fault
from faults.processes import lines, resume

fault = pytest.mark.fault


@fault("disk full at a save", "1", "the checkpoint before")
@pytest.mark.parametrize("limit", [100_000, 400_000], ids=["weights", "optimizer state"])
def test_disk_full_at_a_save(begin, goes_on, limit):
    running = begin(Fault("save begun", 2, f"limit {limit}"))
    assert running.code() == 1
    (line,) = running.err.splitlines()
    assert "cannot save" in line and "round-4" in line and "File too large" in line
    assert f"(2 of 4 rounds are lost): nsr-fast resume {running.run}" in running.out
    assert not list(running.run.rglob("*.unfinished"))
    goes_on(running, 2)


@fault("disk full at a metrics line", "1", "the last checkpoint")
def test_disk_full_at_a_metrics_line(begin, goes_on):
    running = begin(Fault("metrics line", 5, "limit 5000"))  # half of the line is written
    assert running.code() == 1
    (line,) = running.err.splitlines()
    assert f"cannot write {running.run}/metrics.jsonl: File too large" in line
    assert not (running.run / "metrics.jsonl").read_text().endswith("\n")
    goes_on(running, 4)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_real_full_disk_and_a_larger_one(policy, tmp_path, whole, goes_on, begin):
    disk = tmp_path / "run"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2300k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mount is not allowed here")
    try:
        running = begin()
        assert running.code() == 1
        (line,) = running.err.splitlines()
        assert "No space left on device" in line and "MiB are free in" in line
        larger = ["mount", "-o", "remount,size=60m", str(disk)]
        subprocess.run(larger, check=True)
        goes_on(running, 4 if (disk / "checkpoints" / "round-4").is_dir() else 2)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def truncated(path: Path) -> str:
    os.truncate(path, path.stat().st_size - 1)
    return "expected bytes"


def flipped(path: Path) -> str:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return "expected sha256"


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        pytest.param(
            truncated,
            "model.safetensors",
            marks=fault("a truncated file of a checkpoint", "0", "the checkpoint before it"),
        ),
        pytest.param(
            flipped,
            "trainer_state.pt",
            marks=fault("a flipped bit in a checkpoint", "0", "the checkpoint before it"),
        ),
    ],
)
def test_damaged_checkpoint_is_passed_over_by_name(begin, goes_on, damage, name):
    running = begin(Fault("rollout", 6))
    assert running.code() == -signal.SIGKILL
    newest = running.run / "checkpoints" / "round-4"
    what = damage(newest / name)
    named = resume(running.folder, resume_from_checkpoint=newest)
    assert named.code() == 2
    (line,) = named.err.splitlines()
    assert str(newest) in line and f"{name}: {what}" in line
    (running.folder / "well").touch()
    resumed = resume(running.folder)
    assert resumed.code() == 0
    (line,) = [line for line in resumed.out.splitlines() if "passed over" in line]
    assert str(newest) in line and f"{name}: {what}" in line
    assert "going on after round 2" in resumed.out
    assert (running.run / "set_aside" / "after-round-2-1" / "checkpoints" / "round-4").is_dir()
    assert (running.run / "checkpoints" / "last").resolve().name == "round-6"


@pytest.mark.parametrize(
    ("does", "said"),
    [
        pytest.param(
            "raises",
            "raised KeyError: 'gold'",
            marks=fault("a reward that raises", "2", "the last whole round, saved"),
        ),
        pytest.param(
            "wrong length",
            "expected 8",
            marks=fault("a reward of the wrong length", "2", "the last whole round, saved"),
        ),
    ],
)
def test_faulty_reward_keeps_the_rounds_before_it(begin, goes_on, does, said):
    running = begin(does=does, save_rounds=0)
    assert running.code() == 2
    (line,) = running.err.splitlines()
    assert "reward:parity" in line and said in line
    goes_on(running, 2, save_rounds=2)


@fault("a reward that hangs (`reward_timeout_s`)", "0", "the run goes on, rollouts unscored")
@pytest.mark.parametrize("reward", ["parity", "parity_async"])
def test_hanging_reward_leaves_its_rollouts_unscored(begin, reward):
    keys = {"reward_timeout_s": 1, "max_rounds": 4, "max_unscored": "none"}
    running = begin(does="hangs", reward=reward, **keys)
    assert running.code() == 0, running.err
    assert "did not return within 1 s" in running.out
    assert [m["num_unscored"] for m in lines(running.run / "metrics.jsonl")] == [0, 0, 8, 0]


@fault("a NaN gradient", "0", "the step is not taken, its rollouts are kept")
def test_nan_step_is_left_out_and_kept(begin, whole):
    running = begin(Fault("third gradient", 1, "nothing"), save_rounds=1)
    assert running.code() == 0, running.err
    steps = [m["optimizer_steps"] for m in lines(running.run / "metrics.jsonl")]
    assert steps == [1, 1, 0, 1, 1, 1] and "guard non_finite (skip)" in running.out
    before, after = (
        (running.run / "checkpoints" / f"round-{n}" / "model.safetensors").read_bytes()
        for n in (2, 3)
    )
    assert before == after
    assert len(lines(running.run / "skipped" / "round-3-step-1.jsonl")) > 0
    first, second = (lines(folder / "metrics.jsonl")[:2] for folder in (whole, running.run))
    assert [m["grad_norm"] for m in first] == [m["grad_norm"] for m in second]


@fault("the engine raises", "1", "the last whole round, saved")
def test_failing_engine_keeps_the_rounds_before_it(begin, goes_on):
    running = begin(Fault("rollout", 4, "raise EngineFailure"))
    assert running.code() == 1
    assert len(running.err.splitlines()) == 1
    goes_on(running, 3)


@fault("stale weights in the engine", "3", "the round, saved")
def test_stale_weights_stop_after_the_round_is_saved(begin, goes_on):
    running = begin(Fault("sync", 4, "raise GuardStop"))
    assert running.code() == 3
    assert len(running.err.splitlines()) == 1
    goes_on(running, 3)


@fault("out of memory in a rollout (a MemoryError)", "1", "the last whole round, saved")
def test_out_of_memory_keeps_the_rounds_before_it(begin, goes_on):
    running = begin(Fault("rollout", 4, "raise MemoryError"))
    assert running.code() == 1
    (line,) = running.err.splitlines()
    assert "out of memory" in line and "nsr-fast plan" in line
    goes_on(running, 3)


@fault("50 rounds", "0", "memory does not grow")
def test_fifty_rounds_do_not_grow(begin):
    running = begin(max_rounds=50, save_rounds=5, eval_rounds=10)
    sizes = {}
    path = running.run / "metrics.jsonl"
    for n in (15, 48):
        running.wait_until(lambda n=n: len(lines(path)) >= n)
        sizes[n] = resident_bytes(running.pid)
    assert running.code() == 0
    assert sizes[48] - sizes[15] < 8e6, sizes


def resident_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(x.split()[1]) for x in text.splitlines() if x.startswith("RssAnon:")) * 1024
