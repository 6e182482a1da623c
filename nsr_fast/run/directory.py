"""The run directory: config.yaml, environment.json, metrics.jsonl, eval.jsonl, rollouts/,
suspicious_golds.jsonl, checkpoints/, report.html, charts/. Append-only while the run lasts."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from nsr_fast.config import Config
from nsr_fast.config_run import RunKeys
from nsr_fast.errors import InputError
from nsr_fast.types import Group, Rollout

_FILES = ("config.yaml", "environment.json", "metrics.jsonl", "eval.jsonl", "report.html")
_FILES += ("suspicious_golds.jsonl",)
_FOLDERS = ("rollouts", "skipped", "checkpoints", "charts")


def check_output_dir(keys: RunKeys) -> None:
    """Raise InputError when output_dir holds a run and `overwrite` is off. Changes nothing."""
    folder = Path(keys.output_dir)
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not parent.is_dir():
        raise InputError(f"output_dir: {parent} is a file; expected a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"output_dir: cannot write in {parent}; choose another directory")
    held = [name for name in (*_FILES, *_FOLDERS) if (folder / name).exists()]
    if held and not keys.overwrite:
        raise InputError(
            f"output_dir: {folder} already holds a run ({', '.join(held)}); choose another "
            "directory or pass --overwrite true to replace that run"
        )


class RunDirectory:
    """Creates the directory (replacing a run when the config says so) and appends to its files."""

    def __init__(self, config: Config, environment: Mapping):
        check_output_dir(config.run)
        self.path = Path(config.run.output_dir)
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)
        for name in _FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"output_dir: cannot make {self.path}: {error.strerror}") from None
        settings = config.flat()
        del settings["overwrite"]  # else the file, used again, would replace the run it is from
        (self.path / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        (self.path / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")

    def log_round(self, metrics: Mapping) -> None:
        """One line of metrics.jsonl."""
        self._append("metrics.jsonl", [metrics])

    def log_evaluation(self, evaluation: Mapping) -> None:
        """One line of eval.jsonl."""
        self._append("eval.jsonl", [evaluation])

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

    def checkpoint(self, round_index: int) -> Path:
        """checkpoints/round-N."""
        return self.path / "checkpoints" / f"round-{round_index}"

    def _append(self, name: str, rows: Iterable[Mapping]) -> None:
        with open(self.path / name, "a") as file:
            file.writelines(json.dumps(row, default=str) + "\n" for row in rows)
