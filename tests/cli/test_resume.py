"""A run that is resumed ends with the bits of one that nothing stopped."""

import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest
from cli.tiny_runs import Run, completed, run_train, train_rows, write_policy, write_rows
from run_bits import difference

from nsr_fast.cli import main

KEYS = {"eval_rounds": 3, "save_rounds": 3, "sample_rollouts": 1000, "eval_num_samples": 4}
KEYS |= {"max_pass_at_1_drop": "none"}  # of 3 problems it is noise
BFLOAT16 = {"dtype": "bfloat16", "minibatches": 2, "objective": "reinforce"}
EVAL_ROWS = [{"id": f"e{i}", "problem": f"{i}-1=", "answer": "7"} for i in range(3)]
EIGHT_ROWS = [{"id": f"t{i}", "problem": f"{i}+{i}=", "answer": str(2 * i)} for i in range(8)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("inputs") / "policy")


def run(folder, policy, **keys):
    """One with prompts that last four of its rounds, so that a resumed one is within them."""
    eval_data = write_rows(policy.parent / "eval.jsonl", EVAL_ROWS)
    return run_train(folder, policy, rows=EIGHT_ROWS, eval_data=eval_data, **(KEYS | keys))


def resumed(folder, *words, **keys):
    """`nsr-fast resume folder/run`."""
    options = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*(words or ("resume", str(folder / "run"))), *options])
    return Run(code, out.getvalue(), err.getvalue(), folder / "run", [])


def calls(folder):
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def three(policy, tmp_path_factory):
    """Three rounds."""
    return completed(run(tmp_path_factory.mktemp("three"), policy, max_rounds=3))


@pytest.fixture(scope="module")
def six(policy, tmp_path_factory):
    """The uninterrupted six."""
    return completed(run(tmp_path_factory.mktemp("six"), policy, max_rounds=6))


@pytest.fixture
def stopped(three, tmp_path):
    """A copy of the three rounds, to be resumed."""
    shutil.copytree(three.folder.parent, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def check_three_and_three(folder, policy, **keys):
    whole = completed(run(folder / "whole", policy, max_rounds=6, **keys))
    completed(run(folder / "parts", policy, max_rounds=3, **keys))
    second = completed(resumed(folder / "parts", max_rounds=6))
    assert f"going on after round 3: {second.checkpoint(3)}" in second.out
    assert [m["round"] for m in second.metrics] == [1, 2, 3, 4, 5, 6]
    assert difference(whole.folder, second.folder) is None
    assert calls(folder / "whole") == calls(folder / "parts")  # every sampled token
    return whole


SETTINGS = {
    "float32, one step": {},
    "float32, two steps": {"minibatches": 2, "objective": "reinforce", "warmup_steps": 8},
    "masters": BFLOAT16 | {"master_weights": "device"},
    "stochastic": BFLOAT16 | {"master_weights": "stochastic"},
    "host masters": BFLOAT16 | {"offload": "optimizer"},
    "host gradients": BFLOAT16 | {"offload": "gradients"},
    "adamw_8bit": BFLOAT16 | {"optim": "adamw_8bit"},
    "lora": {"lora_rank": 2, "learning_rate": 1e-2},
}


@pytest.mark.parametrize("keys", SETTINGS.values(), ids=SETTINGS)
def test_three_and_three_rounds_are_six(policy, tmp_path, keys):
    whole = check_three_and_three(tmp_path, policy, **keys)
    assert all(m["trained_tokens"] and m["grad_norm"] > 0 for m in whole.metrics)


@pytest.mark.vllm
@pytest.mark.parametrize("name", ["float32, two steps", "masters"])
def test_three_and_three_rounds_are_six_through_vllm(policy, tmp_path, name):
    pytest.importorskip("vllm")
    keys = SETTINGS[name] | {"engine": "vllm", "max_num_seqs": 16, "kv_cache_gib": 0.1}
    check_three_and_three(tmp_path, policy, **keys)


REFUSED = {
    "learning_rate": ("0.002", "0.001"),
    "num_generations": ("2", "4"),
    "seed": ("1", "0"),
    "objective": ("psr", "nsr"),
    "max_completion_length": ("9", "8"),
    "warmup_steps": ("5", "0"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_setting_of_another_run_is_refused_with_both_values(stopped, key):
    now, before = REFUSED[key]
    refused = resumed(stopped, max_rounds=6, **{key: now})
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert f"{key}: the run was begun with" in line and before in line and now in line
    assert len(refused.metrics) == 3


def test_other_rows_are_refused(stopped):
    rows = train_rows(8)[::-1]
    refused = resumed(stopped, max_rounds=6, data=write_rows(stopped / "other.jsonl", rows))
    assert refused.code == 2 and "data: expected the prompts that the run was begun" in refused.err
    assert len(refused.metrics) == 3


def test_what_may_change_changes_no_bit(stopped, six):
    data = write_rows(stopped / "moved.jsonl", EIGHT_ROWS)
    keys = {"save_rounds": 1, "save_total_limit": 2, "max_time": "1h", "sample_rollouts": 999}
    keys |= {"max_unscored": 0.5, "max_rounds": 6, "data": data, "max_num_seqs": 64}
    second = completed(resumed(stopped, **keys))
    assert difference(six.folder, second.folder) is None
    names = {path.name for path in (second.folder / "checkpoints").iterdir()}
    assert names == {"round-5", "round-6", "last"}
    settings = (second.folder / "config.yaml").read_text()
    assert "save_total_limit: 2" in settings and "resume" not in settings


def test_rounds_that_are_done_ask_for_more(stopped):
    refused = resumed(stopped)
    assert refused.code == 2
    assert "the run has done round 3 of 3; raise max_rounds" in refused.err


def test_what_came_after_the_checkpoint_is_set_aside(stopped, six):
    path, tail = stopped / "run" / "metrics.jsonl", '{"round": 4, "reward": 1}\n{"round": 5, "rew'
    path.write_text(path.read_text() + tail)
    evaluated = stopped / "run" / "eval.jsonl"
    evaluated.write_text(evaluated.read_text() + '{"round": 4}\n')
    later = stopped / "run" / "rollouts" / "round-4.jsonl"
    later.write_text("later\n")
    (stopped / "run" / "checkpoints" / "round-4").mkdir()
    second = completed(resumed(stopped, max_rounds=6))
    aside = second.folder / "set_aside" / "after-round-3-1"
    assert str(aside) in second.out
    assert (aside / "metrics.jsonl").read_text() == tail
    assert (aside / "eval.jsonl").read_text() == '{"round": 4}\n'
    assert (aside / "rollouts" / "round-4.jsonl").read_text() == "later\n"
    assert (aside / "checkpoints" / "round-4").is_dir()
    assert difference(six.folder, second.folder) is None


def test_fork_by_path_leaves_the_first_run_as_it_is(stopped, six):
    first = stopped / "run"
    before = {p: p.read_bytes() for p in first.rglob("*") if p.is_file()}
    keys = {"config": first / "config.yaml", "output_dir": stopped / "fork", "max_rounds": 6}
    fork = resumed(stopped, "train", **keys, resume_from_checkpoint=first / "checkpoints" / "last")
    assert fork.code == 0, fork.err
    assert before == {p: p.read_bytes() for p in first.rglob("*") if p.is_file()}
    for n in (1, 2, 3):  # of the first run alone
        shutil.copy(six.folder / "rollouts" / f"round-{n}.jsonl", stopped / "fork" / "rollouts")
    assert difference(six.folder, stopped / "fork") is None


def test_true_begins_a_run_where_there_is_none(policy, tmp_path):
    first = completed(run(tmp_path, policy, max_rounds=1, resume_from_checkpoint="true"))
    assert len(first.metrics) == 1
    again = completed(run(tmp_path, policy, max_rounds=2, resume_from_checkpoint="true"))
    assert [m["round"] for m in again.metrics] == [1, 2]
    assert "going on after round 1" in again.out


def test_run_without_a_checkpoint_says_how_to_begin_again(stopped):
    shutil.rmtree(stopped / "run" / "checkpoints")
    refused = resumed(stopped, max_rounds=6)
    assert refused.code == 2
    folder = stopped / "run"
    keys = f"--config {folder / 'config.yaml'} --output_dir {folder} --overwrite true"
    command = f"nsr-fast train {keys}"
    assert "holds a run without a whole checkpoint" in refused.err and command in refused.err


def test_run_of_weights_alone_is_refused(policy, tmp_path):
    completed(run(tmp_path, policy, max_rounds=1, save_only_weights="true"))
    refused = resumed(tmp_path, max_rounds=2)
    assert refused.code == 2 and "saved with save_only_weights" in refused.err


def test_wrong_run_directory_is_one_line(tmp_path):
    refused = resumed(tmp_path)
    assert refused.code == 2
    assert f"resume: {tmp_path / 'run'}: expected the directory of a run" in refused.err
    assert resumed(tmp_path, "resume").code == 2


def test_best_and_last_are_links_of_the_resumed_run(policy, tmp_path):
    """A save that was killed before it linked them: the resumed run links them again."""
    keys = {"save_best": "pass_at_1", "save_rounds": 1, "eval_rounds": 1}
    first = completed(run(tmp_path, policy, max_rounds=2, **keys))
    links = {n: (first.folder / "checkpoints" / n).resolve().name for n in ("last", "best")}
    for name in links:
        (first.folder / "checkpoints" / name).unlink()
    second = completed(resumed(tmp_path, max_rounds=3))
    values = {e["round"]: e["pass_at_k"][0] for e in second.evaluations if e["round"]}
    best = max(values, key=values.get)
    for name, number in (("last", 3), ("best", best)):
        assert (second.folder / "checkpoints" / name).resolve().name == f"round-{number}"


def test_another_directory_needs_the_checkpoint_it_begins_with(stopped):
    refused = resumed(stopped, output_dir=stopped / "new", max_rounds=6)
    assert refused.code == 2 and "a resumed run stays in" in refused.err
    assert resumed(stopped, overwrite="true").code == 2 and not (stopped / "new").exists()


def test_queued_run_that_never_saved_begins_again(policy, tmp_path):
    completed(run(tmp_path, policy, max_rounds=1))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    again = completed(run(tmp_path, policy, max_rounds=2, resume_from_checkpoint="true"))
    assert [m["round"] for m in again.metrics] == [1, 2]
    assert (tmp_path / "run.old-1" / "metrics.jsonl").is_file()


CHANGED = {"eval_num_samples": 8, "eval_num_prompts": 2}


@pytest.mark.parametrize("key", CHANGED)
def test_other_evaluations_are_not_compared(policy, tmp_path, key):
    """Not in the table, not by save_best, and none of them ends the run."""
    best = {"save_best": "pass_at_1", "save_rounds": 1, "eval_rounds": 1}
    completed(run(tmp_path, policy, max_rounds=2, **best))
    second = completed(resumed(tmp_path, max_rounds=3, **{key: CHANGED[key]}))
    assert "no comparison: the first evaluation was of other problems" in second.out
    assert "paired difference" not in second.out
    assert (second.folder / "checkpoints" / "best").resolve().name == "round-3"
    assert "paired problem by problem" not in (second.folder / "report.html").read_text()


def test_broken_lines_are_set_aside_and_good_ones_kept(stopped):
    path = stopped / "run" / "metrics.jsonl"
    first, second, third = path.read_text().splitlines()
    path.write_text("\n".join([first, "null", '{"round": 2, "rew', second, third, ""]))
    (stopped / "run" / "environment.json").write_text("[]")
    again = completed(resumed(stopped, max_rounds=4))
    assert [m["round"] for m in again.metrics] == [1, 2, 3, 4]
    (aside,) = (stopped / "run" / "set_aside").glob("*/metrics.jsonl")
    assert aside.read_text() == 'null\n{"round": 2, "rew\n'


def test_last_may_be_a_copy_and_the_directory_a_link(stopped):
    last = stopped / "run" / "checkpoints" / "last"
    last.unlink()
    shutil.copytree(stopped / "run" / "checkpoints" / "round-3", last)
    (stopped / "link").symlink_to(stopped / "run")
    second = completed(resumed(stopped, "resume", str(stopped / "link"), max_rounds=4))
    assert last.is_symlink() and last.resolve().name == "round-4"
    (kept,) = last.parent.glob("last.copy-*")
    assert (kept / "manifest.json").is_file()
    third = resumed(stopped, "train", config=stopped / "run" / "config.yaml", overwrite="true",
                    output_dir=stopped / "link", max_rounds=1)  # fmt: skip
    assert third.code == 0 and second.code == 0, third.err
    assert (stopped / "run.old-1" / "checkpoints" / "round-4").is_dir()


def test_what_is_no_checkpoint_is_named(stopped, policy):
    for path in (policy, stopped / "run", stopped / "gone"):
        refused = resumed(stopped, max_rounds=6, resume_from_checkpoint=path)
        (line,) = refused.err.splitlines()
        assert refused.code == 2 and f"{path}: expected a whole checkpoint of a run" in line
