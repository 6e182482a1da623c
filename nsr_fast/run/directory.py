"""The run directory: config.yaml, environment.json, metrics.jsonl, eval.jsonl, rollouts/,
suspicious_golds.jsonl, checkpoints/, report.html, charts/. Append-only while the run lasts.

A run that is replaced moves to a folder beside it, NAME.old-K; what was written after the
checkpoint that a run resumes from moves to set_aside/K in it.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from nsr_fast.config import Config
from nsr_fast.errors import InputError
from nsr_fast.types import Group, Rollout

_FILES = ("config.yaml", "environment.json", "metrics.jsonl", "eval.jsonl", "report.html")
_FILES += ("suspicious_golds.jsonl",)
_FOLDERS = ("rollouts", "skipped", "checkpoints", "charts", "set_aside")
_LOGS = ("metrics.jsonl", "eval.jsonl")
_OF_THIS_START = ("overwrite", "resume_from_checkpoint", "dry_run")


def check_output_dir(config: Config, *, is_resumed: bool = False) -> None:
    """Raise InputError when output_dir holds a run and neither `overwrite` nor a resume is asked
    for, or when an input would be moved. Changes nothing."""
    keys, folder = config.run, Path(config.run.output_dir)
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not parent.is_dir():
        raise InputError(f"output_dir: {parent} is a file; expected a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"output_dir: cannot write in {parent}; choose another directory")
    held = held_items(folder)
    if not held or is_resumed:
        return
    if not keys.overwrite:
        raise InputError(
            f"output_dir: {folder} already holds a run ({', '.join(held)}); go on with it "
            f"(nsr-fast resume {folder}), choose another directory or pass --overwrite true, which "
            "moves that run aside"
        )
    _check_inputs_stay(config, [folder / name for name in held])


def held_items(folder: Path) -> list[str]:
    """What of a run is there, by name."""
    return [name for name in (*_FILES, *_FOLDERS) if (folder / name).exists()]


def _check_inputs_stay(config: Config, moved: Sequence[Path]) -> None:
    rewards = [name.rpartition(":")[0] for name in config.reward.names]
    given = {"model": config.model.model, "data": config.data.data, "eval_data": _eval_data(config)}
    for key, value in [*given.items(), *(("reward", name) for name in rewards)]:
        path = Path(value or "").expanduser()
        if value and path.exists() and any(path.resolve().is_relative_to(m) for m in _real(moved)):
            raise InputError(
                f"{key}: {value} lies in the run that overwrite moves aside; choose another "
                "output_dir"
            )


def _eval_data(config: Config) -> str:
    return config.eval.eval_data or ""


def _real(paths: Sequence[Path]) -> list[Path]:
    return [path.resolve() for path in paths]


class RunDirectory:
    """Appends to the files of a run in `path`."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(cls, config: Config, environment: Mapping) -> tuple["RunDirectory", list[str]]:
        """A new one, and a line about the run that was moved aside for it."""
        run = cls(Path(config.run.output_dir))
        run.path.mkdir(parents=True, exist_ok=True)
        notes = run._move_aside()
        run._write_settings(config, environment)
        return run, notes

    @classmethod
    def reopen(
        cls, config: Config, environment: Mapping, round_index: int
    ) -> tuple["RunDirectory", list[str]]:
        """The one that holds the run, as it was after the round; a line for what was cut off."""
        run = cls(Path(config.run.output_dir))
        notes = [*run._cut_after(round_index), *run._changed_versions(environment)]
        run._write_settings(config, environment)
        return run, notes

    def copy_history(self, source: Path, round_index: int) -> None:
        """The logs of another run up to the round, for one that begins with its checkpoint."""
        for name in _LOGS:
            lines, _ = _rounds_up_to(source / name, round_index)
            if lines:
                _replace(self.path / name, lines)

    def log_round(self, metrics: Mapping) -> None:
        """One line of metrics.jsonl."""
        self._append("metrics.jsonl", [metrics])

    def log_evaluation(self, evaluation: Mapping) -> None:
        """One line of eval.jsonl."""
        self._append("eval.jsonl", [evaluation])

    def evaluations(self) -> list[dict]:
        """The lines of eval.jsonl."""
        path = self.path / "eval.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def log_rollouts(self, round_index: int, groups: Sequence[Group], limit: int) -> None:
        """A few rollouts of the round, evenly chosen, to read by eye."""
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        (self.path / "rollouts").mkdir(exist_ok=True)
        rows = [
            {"id": r.prompt.id, "reward": r.reward, "prompt": r.prompt.text, "text": r.text}
            | ({"reason": r.reason} if r.reason else {})
            | r.extras
            for r in rollouts[:: max(1, len(rollouts) // max(1, limit))][:limit]
        ]
        self._append(f"rollouts/round-{round_index}.jsonl", rows)

    def log_skipped(self, round_index: int, skipped: Mapping[int, Sequence[Rollout]]) -> None:
        """skipped/round-N-step-K.jsonl: the rollouts of the steps that were not taken, whole."""
        for step, rollouts in skipped.items():
            (self.path / "skipped").mkdir(exist_ok=True)
            rows = [
                {"id": r.prompt.id, "prompt": r.prompt.text, "prompt_token_ids": r.prompt.token_ids}
                | {"text": r.text, "token_ids": r.token_ids, "sampler_logprob": r.sampler_logprob}
                | {"reward": r.reward, "weight": r.weight, "finish_reason": r.finish_reason}
                for r in rollouts
            ]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (self.path / "skipped" / f"round-{round_index}-step-{step}.jsonl").write_text(lines)

    def write_suspects(self, records: Sequence[Mapping]) -> None:
        """suspicious_golds.jsonl: prompts whose rollouts agree on one wrong answer, if any."""
        if records:
            lines = "".join(json.dumps(record, default=str) + "\n" for record in records)
            (self.path / "suspicious_golds.jsonl").write_text(lines)

    @property
    def checkpoints(self) -> Path:
        """The folder of round-N."""
        return self.path / "checkpoints"

    def _append(self, name: str, rows: Iterable[Mapping]) -> None:
        try:
            with open(self.path / name, "a") as file:
                file.writelines(json.dumps(row, default=str) + "\n" for row in rows)
        except OSError as error:  # a write that fails does not say where
            raise OSError(f"cannot write {self.path / name}: {error.strerror}") from error

    def _write_settings(self, config: Config, environment: Mapping) -> None:
        # one used again must not replace, resume or only check the run it is from
        settings = {k: v for k, v in config.flat().items() if k not in _OF_THIS_START}
        _replace(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
        _replace(self.path / "environment.json", json.dumps(environment, indent=1) + "\n")

    def _move_aside(self) -> list[str]:
        held = held_items(self.path)
        if not held:
            return []
        place = self.path.resolve()  # of a link or ".", the folder itself
        aside = _free_name(place.with_name(place.name + ".old"))
        aside.mkdir()
        for name in held:
            os.replace(self.path / name, aside / name)
        return [f"the run that {self.path} held is in {aside}"]

    def _cut_after(self, round_index: int) -> list[str]:
        kept = {name: _rounds_up_to(self.path / name, round_index) for name in _LOGS}
        later = [
            path
            for folder in ("rollouts", "skipped", "checkpoints")
            for path in sorted((self.path / folder).glob("round-*"))
            if _round_of(path) > round_index
        ]
        if not later and not any(rest for _, rest in kept.values()):
            return []
        (self.path / "set_aside").mkdir(exist_ok=True)
        aside = _free_name(self.path / "set_aside" / "after-round", f"-{round_index}")
        aside.mkdir()
        for name, (lines, rest) in kept.items():
            if rest:
                (aside / name).write_bytes(rest)
                _replace(self.path / name, lines)
        for path in later:
            (aside / path.parent.name).mkdir(exist_ok=True)
            os.replace(path, aside / path.parent.name / path.name)
        return [f"what was written after round {round_index}, or is broken, is in {aside}"]

    def _changed_versions(self, environment: Mapping) -> list[str]:
        path = self.path / "environment.json"
        try:
            before = dict(json.loads(path.read_text())["packages"])
        except (OSError, ValueError, KeyError, TypeError):  # it serves this note alone
            return []
        now = environment["packages"]
        changed = [f"{n} {before[n]} -> {now.get(n)}" for n in before if before[n] != now.get(n)]
        if not changed:
            return []
        return [f"other versions than before, so other bits: {', '.join(changed)}"]


def _rounds_up_to(path: Path, round_index: int) -> tuple[bytes, bytes]:
    """(the lines up to the round, the later and the broken ones)."""
    content = path.read_bytes() if path.exists() else b""
    kept, rest = [], []
    for line in content.splitlines(keepends=True):
        try:
            is_kept = line.endswith(b"\n") and json.loads(line)["round"] <= round_index
        except (ValueError, KeyError, TypeError):
            is_kept = False
        (kept if is_kept else rest).append(line)
    return b"".join(kept), b"".join(rest)


def _round_of(path: Path) -> int:
    """7 of round-7, round-7.jsonl and round-7-step-1.jsonl."""
    digits = path.name.removeprefix("round-").partition(".")[0].partition("-")[0]
    return int(digits) if digits.isdigit() else 0


def _free_name(path: Path, suffix: str = "") -> Path:
    """path-1, path-2, ...: the first that does not exist."""
    number = 1
    while (found := path.with_name(f"{path.name}{suffix}-{number}")).exists():
        number += 1
    return found


def _replace(path: Path, content: str | bytes) -> None:
    """Write the file whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.replace(unfinished, path)
