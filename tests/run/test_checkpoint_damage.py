"""What lies under RUN/checkpoints: damage is found and passed over, the right ones are removed."""

import json
import resource
import shutil
import signal
from contextlib import contextmanager

import pytest
import torch

from nsr_fast.config_groups import ModelKeys
from nsr_fast.errors import InputError
from nsr_fast.model.load import load_policy, load_tokenizer
from nsr_fast.run.checkpoint import check_saveable, damage, load_trainer_state, save_checkpoint
from nsr_fast.run.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def save(checkpoint):
    folder = str(checkpoint("qwen2"))
    policy = load_policy(ModelKeys(model=folder, dtype="float32"))
    tokenizer = load_tokenizer(folder)
    return lambda path, state: save_checkpoint(path, policy, tokenizer, state)


@pytest.fixture(scope="module")
def four(save, tmp_path_factory):
    """Rounds 2, 4, 10 with a state, 12 without."""
    folder = tmp_path_factory.mktemp("four")
    for n in (2, 4, 10):
        save(folder / f"round-{n}", {"round": n, "moments": torch.arange(1000.0)})
    save(folder / "round-12", None)
    return folder


@pytest.fixture
def checkpoints(four, tmp_path):
    shutil.copytree(four, tmp_path / "checkpoints")
    return Checkpoints(tmp_path / "checkpoints")


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "name", ["model.safetensors", "trainer_state.pt", "config.json", "tokenizer.json"]
)
def test_one_flipped_bit_anywhere_is_found(checkpoints, name):
    path = checkpoints.path(10) / name
    for at in (0, path.stat().st_size // 2, -1):
        assert damage(checkpoints.path(10)) is None
        flip(path, at)
        found = damage(checkpoints.path(10))
        assert found.startswith(f"{name}: expected sha256 ") and ", got " in found
        newest, passed = checkpoints.newest_whole()
        assert newest == 4 and f"round-10: {found}, passed over" in passed[-1]
        flip(path, at)


def test_a_file_cut_short_or_gone_is_named_with_both_sizes(checkpoints):
    path = checkpoints.path(10) / "model.safetensors"
    size = path.stat().st_size
    truncate(path)
    expected = f"model.safetensors: expected bytes {size}, got {size - 1}"
    assert damage(checkpoints.path(10)) == expected
    path.unlink()
    assert damage(checkpoints.path(10)) == "model.safetensors is missing"
    assert checkpoints.newest_whole()[0] == 4


@pytest.mark.parametrize("text", ["", "[]", '{"files": 3}', '{"files": {"config.json": {}}}', "\0"])
def test_a_manifest_that_is_none_is_damage(checkpoints, text):
    (checkpoints.path(10) / "manifest.json").write_text(text)
    assert damage(checkpoints.path(10)).startswith("manifest.json is not one of ours: ")


def test_newest_whole_names_what_it_passed_over(checkpoints):
    (checkpoints.path(10) / "manifest.json").unlink()
    (checkpoints.folder / "round-13.unfinished").mkdir()
    newest, passed = checkpoints.newest_whole()
    assert newest == 4 and checkpoints.rounds() == [2, 4, 12]
    assert [line.removeprefix(f"{checkpoints.folder}/") for line in passed] == [
        "round-13.unfinished: a leftover, not used",
        "round-12: saved with save_only_weights, it cannot be resumed, passed over",
        "round-10: manifest.json is missing, passed over",
    ]
    assert checkpoints.clean() == [f"{checkpoints.folder}/round-13.unfinished: a leftover, removed"]


def test_no_checkpoints_folder_is_no_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.newest_whole() == (None, []) and checkpoints.clean() == []
    assert checkpoints.rounds() == [] and checkpoints.best() is None
    checkpoints.prune(1)


@pytest.mark.parametrize(
    ("limit", "keep", "left"),
    [
        (None, set(), [2, 4, 10, 12]),
        (9, set(), [2, 4, 10, 12]),
        (1, set(), [12]),
        (2, {2}, [2, 10, 12]),
        (3, {12}, [4, 10, 12]),
    ],
)
def test_prune_keeps_the_newest_and_what_it_is_told(checkpoints, limit, keep, left):
    checkpoints.prune(limit, keep)
    assert checkpoints.rounds() == left
    names = {path.name for path in checkpoints.folder.iterdir()}
    assert names == {f"round-{n}" for n in left}


def test_links_go_with_the_folder_and_follow_their_round(checkpoints, tmp_path):
    assert checkpoints.best() is None
    for n in (2, 10):
        checkpoints.link("best", n)
        assert checkpoints.best() == n
    moved = Checkpoints(checkpoints.folder.rename(tmp_path / "moved"))
    assert moved.best() == 10 and damage(moved.folder / "best") is None
    assert moved.rounds() == [2, 4, 10, 12]
    shutil.rmtree(moved.path(10))
    assert moved.best() is None


def test_trainer_state_comes_back_and_weights_alone_say_so(checkpoints):
    state = load_trainer_state(checkpoints.path(10))
    assert state["round"] == 10 and torch.equal(state["moments"], torch.arange(1000.0))
    with pytest.raises(InputError, match=r"round-12: no trainer_state.pt.*--model$"):
        load_trainer_state(checkpoints.path(12))
    truncate(checkpoints.path(10) / "trainer_state.pt")
    with pytest.raises(InputError, match=r"round-10/trainer_state.pt: cannot be read: "):
        load_trainer_state(checkpoints.path(10))
    of_weights = json.loads((checkpoints.path(12) / "manifest.json").read_text())
    assert of_weights["round"] is None and "trainer_state.pt" not in of_weights["files"]


@contextmanager
def files_of_at_most(size):
    """The system refuses to write more, as on a full disk (EFBIG in place of ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 10_000, 400_000, 2_000_000])
def test_a_disk_that_takes_no_more_is_one_line_with_the_reason(checkpoint, tmp_path, size):
    """In config.json, model.safetensors (317 kB), tokenizer.json (700 kB) and trainer_state.pt
    (4 MB): each is written by another library, which fails in its own way."""
    folder = str(checkpoint("qwen2"))
    policy = load_policy(ModelKeys(model=folder, dtype="float32"))
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"token {i}" for i in range(4000)])
    save_checkpoint(path := tmp_path / "round-1", policy, tokenizer, {"round": 1})
    with files_of_at_most(size), pytest.raises(OSError, match="cannot save") as raised:
        save_checkpoint(path, policy, tokenizer, {"round": 1, "moments": torch.zeros(1 << 20)})
    text = str(raised.value)
    assert text.startswith(f"cannot save {path}: ") and "File too large" in text
    assert "MiB are free in " in text and "\n" not in text
    assert damage(path) is None and [p.name for p in tmp_path.iterdir()] == ["round-1"]


def test_what_cannot_be_saved_is_known_before_anything_is_trained(checkpoint):
    folder = str(checkpoint("qwen2"))
    tokenizer = load_tokenizer(folder)
    check_saveable(folder, tokenizer)
    tokenizer.init_kwargs["odd"] = object()
    with pytest.raises(InputError, match=r"not saved again.*object") as raised:
        check_saveable(folder, tokenizer)
    assert str(raised.value).startswith(f"model: {folder}: ") and "\n" not in str(raised.value)
