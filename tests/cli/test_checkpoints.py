"""A run's checkpoints: whole or absent, the live policy bit for bit, the optimizer with it."""

import sys

import pytest
import torch
from cli.tiny_runs import STOPS, completed, run_train, write_policy
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

EVAL_ROWS = [{"id": f"e{i}", "prompt": f"{i}-1=", "answer": "7"} for i in range(5)]
FILES = {"config.json", "generation_config.json", "model.safetensors", "trainer_state.pt"}
FILES |= {"tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module", params=["qwen2", "llama"])  # a tied and an untied head
def policy(request, tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def run(policy, tmp_path_factory):
    """Two rounds of two steps, a checkpoint after each."""
    keys = {"max_rounds": 2, "save_rounds": 1, "minibatches": 2, "eval_rounds": 1}
    keys |= {"objective": "reinforce", "eval_rows": EVAL_ROWS}
    return completed(run_train(tmp_path_factory.mktemp("run"), policy, **keys))


def test_checkpoint_holds_the_base_models_names_dtypes_and_new_values(policy, run):
    base = load_file(policy / "model.safetensors")
    first, second = run.weights(1), run.weights(2)
    assert base.keys() == first.keys() == second.keys()
    for name, tensor in base.items():
        assert first[name].dtype == second[name].dtype == tensor.dtype == torch.float32
        assert not torch.equal(first[name], tensor) and not torch.equal(second[name], first[name])
    for index in (1, 2):
        assert {path.name for path in run.checkpoint(index).iterdir()} >= FILES
        AutoModelForCausalLM.from_pretrained(run.checkpoint(index))
        assert AutoTokenizer.from_pretrained(run.checkpoint(index)).eos_token_id == 2
        generation = GenerationConfig.from_pretrained(run.checkpoint(index))
        assert set(generation.eos_token_id) == {2, *range(60, 100)} < set(STOPS)


def test_checkpoint_is_the_live_policy_bit_for_bit(run, tmp_path):
    """Evaluations draw the same noise, so a run that starts from a checkpoint measures at first
    what the run that wrote it measured then, to the last digit."""
    for index in (1, 2):
        (measured,) = [line for line in run.evaluations if line["round"] == index]
        keys = {"eval_rows": EVAL_ROWS, "reward": "parity"}
        again = completed(run_train(tmp_path / str(index), run.checkpoint(index), **keys))
        assert again.evaluations[0] == {**measured, "round": 0}
    assert run.evaluations[0]["entropy"] != run.evaluations[1]["entropy"]


def test_evaluations_of_an_unchanged_policy_are_equal(policy, tmp_path):
    keys = {"eval_rows": EVAL_ROWS, "reward": "parity_of_problems", "max_rounds": 2}
    run = completed(run_train(tmp_path, policy, eval_rounds=1, **keys))
    assert [metrics["trained_tokens"] for metrics in run.metrics] == [0, 0]
    first, *others = run.evaluations
    assert len(others) == 2 and 0 < sum(first["num_correct"]) < 5 * 4
    for line in others:
        assert {**line, "round": 0} == first


def test_trainer_state_has_round_steps_and_moments_of_every_parameter(policy, run):
    model = AutoModelForCausalLM.from_pretrained(policy)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for index in (1, 2):
        state = torch.load(run.checkpoint(index) / "trainer_state.pt", weights_only=True)
        assert state["round"] == index and state["optimizer"]["num_steps"] == 2 * index
        parameters = state["optimizer"]["parameters"]
        assert {name: saved["exp_avg"].shape for name, saved in parameters.items()} == shapes
        for saved in parameters.values():
            assert saved["num_steps"] == 2 * index
            assert saved["exp_avg"].count_nonzero() > 0 and (saved["exp_avg_sq"] > 0).any()


class Listings:
    """At every file event of this process, what lies in a folder (an audit hook cannot be removed:
    `folder` None turns it off)."""

    def __init__(self):
        self.folder, self.seen, self._is_listing = None, [], False
        sys.addaudithook(self._event)

    def _event(self, event, _):
        is_file = event == "open" or event.startswith(("os.", "shutil."))
        if not is_file or self.folder is None or self._is_listing:
            return
        self._is_listing = True
        try:
            if self.folder.is_dir():
                self.seen.append({path.name for path in self.folder.iterdir()})
        finally:
            self._is_listing = False


@pytest.fixture(scope="module")
def listings():
    return Listings()


def test_checkpoint_appears_whole(policy, tmp_path, listings):
    listings.seen.clear()
    listings.folder = tmp_path / "run" / "checkpoints" / "round-1"
    run = run_train(tmp_path, policy)
    listings.folder = None
    final = {path.name for path in completed(run).checkpoint(1).iterdir()}
    assert final >= FILES and listings.seen  # the report is written after it
    assert all(names == final for names in listings.seen)
    assert {path.name for path in (run.folder / "checkpoints").iterdir()} == {"last", "round-1"}


def test_a_save_that_fails_leaves_the_earlier_checkpoint_alone(policy, tmp_path, monkeypatch):
    save = torch.save

    def full_disk(state, *args, **options):
        if state["round"] == 2:
            raise OSError("no space left on device")
        save(state, *args, **options)

    monkeypatch.setattr(torch, "save", full_disk)
    run = run_train(tmp_path, policy, max_rounds=2, save_rounds=1)
    (line,) = run.err.splitlines()
    assert run.code == 1 and "round-2: no space left on device" in line
    assert f"go on after round 1 (1 of 2 rounds are lost): nsr-fast resume {run.folder}" in run.out
    checkpoints = tmp_path / "run" / "checkpoints"
    assert {path.name for path in (checkpoints / "round-1").iterdir()} >= FILES
    assert not (checkpoints / "round-2").exists()


def test_a_run_that_overwrites_leaves_no_old_checkpoint(policy, tmp_path):
    completed(run_train(tmp_path, policy, max_rounds=2, save_rounds=1))
    stale = tmp_path / "run" / "checkpoints" / "round-1" / "stale.bin"
    stale.write_text("of the run before")
    run = completed(run_train(tmp_path, policy, overwrite="true"))
    names = {path.name for path in (run.folder / "checkpoints").iterdir()}
    assert names == {"last", "round-1"} and not stale.exists()
    aside = run.folder.with_name("run.old-1")
    assert (aside / "checkpoints" / "round-1" / "stale.bin").is_file()
    assert f"the run that {run.folder} held is in {aside}" in run.out
