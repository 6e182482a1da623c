"""The checkpoints of a run: round-1, round-2, ... and the links last and best."""

import os
import re
import shutil
import time
from collections.abc import Set
from pathlib import Path

from nsr_fast.run.checkpoint import (
    MANIFEST,
    REPLACED,
    TRAINER_STATE,
    UNFINISHED,
    damage,
    sync_folder,
)

_ROUND = re.compile(r"round-([0-9]+)")


class Checkpoints:
    """Of one folder, RUN/checkpoints, which need not exist."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, round_index: int) -> Path:
        """checkpoints/round-N; where a replacement of it was cut short, the one it had."""
        path = self.folder / f"round-{round_index}"
        replaced = path.with_name(path.name + REPLACED)
        return replaced if replaced.exists() and not path.exists() else path

    def rounds(self) -> list[int]:
        """Those with a manifest, ascending."""
        return [n for n in self._numbers() if (self.path(n) / MANIFEST).is_file()]

    @property
    def is_empty(self) -> bool:
        """Whether there is no round, not even a damaged one."""
        return not self._numbers()

    def newest_whole(self) -> tuple[int | None, list[str]]:
        """The newest undamaged round that can be resumed, and a line for what was passed over."""
        passed = [f"{path}: a leftover, not used" for path in self._leftovers()]
        for n in reversed(self._numbers()):
            if (reason := self._unusable(n)) is None:
                return n, passed
            passed.append(f"{self.path(n)}: {reason}, passed over")
        return None, passed

    def clean(self) -> list[str]:
        """Remove what cut-short saves left, put back what they had moved; a line for each."""
        lines = []
        for n in self._numbers():
            path = self.path(n)
            if path.name.endswith(REPLACED):
                os.replace(path, path.with_suffix(""))
                lines.append(f"{path}: put back as {path.stem}")
        for path in self._leftovers():
            _remove(path)
            lines.append(f"{path}: a leftover, removed")
        if lines:
            sync_folder(self.folder)
        return lines

    def link(self, name: str, round_index: int) -> None:
        """Point checkpoints/`name` at a round, in one step."""
        new = self.folder / (name + UNFINISHED)
        new.unlink(missing_ok=True)
        new.symlink_to(f"round-{round_index}")
        link = self.folder / name
        if link.is_dir() and not link.is_symlink():  # a tool that copied what it pointed at
            os.replace(link, link.with_name(f"{name}.copy-{time.time_ns()}"))
        os.replace(new, link)
        sync_folder(self.folder)

    def best(self) -> int | None:
        """The round that `best` points at, if it is there."""
        link = self.folder / "best"
        found = _ROUND.fullmatch(os.readlink(link)) if link.is_symlink() else None
        return int(found[1]) if found and int(found[1]) in self.rounds() else None

    def prune(self, limit: int | None, keep: Set[int] = frozenset()) -> None:
        """Remove all but the newest `limit` and those in `keep`, oldest first; None: all stay."""
        if limit is None:
            return
        rounds = self.rounds()
        for n in rounds[: max(0, len(rounds) - limit)]:
            if n not in keep:
                doomed = self.folder / f"round-{n}{UNFINISHED}"
                _remove(doomed)
                os.replace(self.path(n), doomed)  # a half-removed one must not look whole
                _remove(doomed)

    def _numbers(self) -> list[int]:
        """Every round of which there is a folder, ascending."""
        found = set()
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if (number := _ROUND.fullmatch(path.name.removesuffix(REPLACED))) and path.is_dir():
                found.add(int(number[1]))
        return sorted(found)

    def _leftovers(self) -> list[Path]:
        """*.unfinished, and *.replaced whose successor is there."""
        if not self.folder.is_dir():
            return []
        used = {self.path(n) for n in self._numbers()}
        found = sorted(self.folder.iterdir())
        return [p for p in found if p.suffix in (UNFINISHED, REPLACED) and p not in used]

    def _unusable(self, round_index: int) -> str | None:
        path = self.path(round_index)
        if (path / MANIFEST).is_file() and not (path / TRAINER_STATE).is_file():
            return damage(path) or "saved with save_only_weights, it cannot be resumed"
        return damage(path)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
