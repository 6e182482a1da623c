"""A save, a removal and a link that fail or die at any of their calls leave a whole checkpoint."""

import errno
import os
import shutil
from contextlib import contextmanager

import pytest
import torch

import nsr_fast.model.save
from nsr_fast.config_groups import ModelKeys
from nsr_fast.model.load import load_policy, load_tokenizer
from nsr_fast.run.checkpoint import damage, load_trainer_state, save_checkpoint
from nsr_fast.run.checkpoints import Checkpoints

CALLS = ("os.replace", "os.fsync", "os.mkdir", "os.unlink", "os.rmdir", "os.symlink", "torch.save")
CALLS += ("nsr_fast.model.save.save_file",)
OLD, NEW = {"round": 1, "is_new": False}, {"round": 1, "is_new": True}


class Died(BaseException):
    """Stands for a kill: from here on nothing that the process does reaches the disk."""


class Calls:
    """Counts the calls of CALLS; the one numbered `at` raises, and with it all that follow when the
    process dies there."""

    def __init__(self, at=None, *, dies=False):
        self.at, self.dies, self.count = at, dies, 0

    def meet(self):
        self.count += 1
        if self.at is None or self.count < self.at:
            return
        if self.dies:
            raise Died
        if self.count == self.at:
            raise OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def watching(calls):
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(name, _wrapped(name, calls))
        yield calls


def _wrapped(name, calls):
    owner = {"os": os, "torch": torch}.get(name.split(".")[0], nsr_fast.model.save)
    real = getattr(owner, name.rsplit(".", 1)[1])

    def call(*args, **options):
        calls.meet()
        return real(*args, **options)

    return call


@pytest.fixture(scope="module")
def save(checkpoint):
    folder = str(checkpoint("qwen2"))
    policy = load_policy(ModelKeys(model=folder, dtype="float32"))
    tokenizer = load_tokenizer(folder)
    return lambda path, state: save_checkpoint(path, policy, tokenizer, state)


def crashes(folder, prepare, action):
    """(checkpoints, died, error) after `action` broke at each of its calls, in each way; `prepare`
    makes what it works on."""
    prepare(Checkpoints(folder / "before"))
    shutil.copytree(folder / "before", folder / "counted", symlinks=True)
    with watching(Calls()) as calls:
        action(Checkpoints(folder / "counted"))
    for dies in (False, True):
        for at in range(1, calls.count + 1):
            checkpoints = Checkpoints(folder / f"{dies}-{at}")
            shutil.copytree(folder / "before", checkpoints.folder, symlinks=True)
            error = None
            with watching(Calls(at, dies=dies)):
                try:
                    action(checkpoints)
                except (OSError, Died) as raised:
                    error = raised
            yield checkpoints, dies, error


def test_a_replaced_checkpoint_is_the_old_or_the_new_one(save, tmp_path):
    states, num = set(), 0
    for checkpoints, dies, error in crashes(
        tmp_path, lambda c: save(c.path(1), OLD), lambda c: save(c.path(1), NEW)
    ):
        num += 1
        newest, _ = checkpoints.newest_whole()
        assert newest == 1 and checkpoints.rounds() == [1] and damage(checkpoints.path(1)) is None
        before = load_trainer_state(checkpoints.path(1))
        if not dies:
            names = {path.name for path in checkpoints.folder.iterdir()}
            assert "round-1" in names and "round-1.unfinished" not in names
            if error is not None:
                assert str(error).startswith("cannot save ") and "No space" in str(error)
        checkpoints.clean()
        assert [path.name for path in checkpoints.folder.iterdir()] == ["round-1"]
        assert damage(checkpoints.path(1)) is None
        assert load_trainer_state(checkpoints.path(1)) == before
        assert checkpoints.clean() == []
        states.add((dies, before["is_new"]))
        save(checkpoints.path(1), NEW)
        assert load_trainer_state(checkpoints.path(1)) == NEW
    assert num > 40 and states == {(False, False), (False, True), (True, False), (True, True)}


def test_a_new_checkpoint_is_whole_or_absent(save, tmp_path):
    found = set()
    for checkpoints, _, _ in crashes(
        tmp_path, lambda c: save(c.path(1), OLD), lambda c: save(c.path(2), {"round": 2})
    ):
        newest, _ = checkpoints.newest_whole()
        found.add(newest)
        assert checkpoints.rounds() == list(range(1, newest + 1))
        assert all(damage(checkpoints.path(n)) is None for n in checkpoints.rounds())
        checkpoints.clean()
        names = {path.name for path in checkpoints.folder.iterdir()}
        assert names == {f"round-{n}" for n in checkpoints.rounds()}
    assert found == {1, 2}


def test_a_half_removed_checkpoint_does_not_look_whole(save, tmp_path):
    def prepare(checkpoints):
        for n in range(1, 5):
            save(checkpoints.path(n), {"round": n})

    counts = set()
    for checkpoints, _, _ in crashes(tmp_path, prepare, lambda c: c.prune(2, {1})):
        rounds = checkpoints.rounds()
        counts.add(len(rounds))
        assert {1, 3, 4} <= set(rounds)
        assert all(damage(checkpoints.path(n)) is None for n in rounds)
        checkpoints.clean()
        assert checkpoints.rounds() == rounds
        assert len(list(checkpoints.folder.iterdir())) == len(rounds)
    assert counts == {3, 4}


def test_a_link_points_at_the_old_or_the_new_round(save, tmp_path):
    def prepare(checkpoints):
        for n in (1, 2):
            save(checkpoints.path(n), {"round": n})
        checkpoints.link("best", 1)

    found = set()
    for checkpoints, _, _ in crashes(tmp_path, prepare, lambda c: c.link("best", 2)):
        found.add(checkpoints.best())
        checkpoints.clean()
        names = {path.name for path in checkpoints.folder.iterdir()}
        assert names == {"best", "round-1", "round-2"}
    assert found == {1, 2}


def test_everything_is_on_the_disk_before_it_has_its_name(save, tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def renamed(old, new):
        events.append((str(old), str(new)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    path = tmp_path / "round-1"
    save(path, NEW)
    at = events.index((f"{path}.unfinished", str(path)))
    *files, manifest, folder = events[:at]
    names = {file.name for file in path.iterdir()}
    assert {os.path.basename(file) for file in files} == names - {"manifest.json"}
    assert manifest == f"{path}.unfinished/manifest.json" and folder == f"{path}.unfinished"
    assert events[at + 1 :] == [str(tmp_path)]
