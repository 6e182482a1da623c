"""Where a run goes on: the checkpoint, and the settings that must be those it was saved with."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from nsr_fast.config import FIELDS, Config
from nsr_fast.config_groups import EvalKeys
from nsr_fast.config_run import GuardKeys, LimitKeys, MemoryKeys, RunKeys, SaveKeys
from nsr_fast.errors import InputError
from nsr_fast.run.checkpoint import damage, load_trainer_state
from nsr_fast.run.checkpoints import Checkpoints
from nsr_fast.types import Prompt

_GROUPS = (SaveKeys, EvalKeys, GuardKeys, LimitKeys, MemoryKeys, RunKeys)
# Of the last group the seed stays. `data` may lie elsewhere, its prompts may not change.
MAY_CHANGE = {key for group in _GROUPS for key in group.model_fields} - {"seed"}
MAY_CHANGE |= {"data", "max_num_seqs", "gpu_memory_utilization"}


@dataclass(frozen=True, slots=True)
class Start:
    """A checkpoint to go on from.

    is_here   it is of the run in output_dir, which goes on; else a new run begins with it
    """

    folder: Path
    round: int
    state: Mapping
    is_here: bool
    notes: list[str]

    def model_config(self, config: Config) -> Config:
        """The settings with the checkpoint as the model."""
        model = config.model.model_copy(update={"model": str(self.folder)})
        return config.model_copy(update={"model": model})


def find_start(config: Config) -> Start | None:
    """The checkpoint that resume_from_checkpoint means; None: begin anew.

    true means the newest whole one of output_dir; where none was ever written a run begins, so
    that the same command can be queued again and again. Raises InputError; changes nothing.
    """
    wanted, run = config.run.resume_from_checkpoint, Path(config.run.output_dir)
    if wanted is False:
        return None
    if wanted is True:
        if not has_checkpoints(run):
            return None
        checkpoints = Checkpoints(run / "checkpoints")
        newest, notes = checkpoints.newest_whole()
        if newest is None:
            raise InputError(nothing_to_resume(run, notes))
        folder = checkpoints.path(newest)
    else:
        folder, notes = Path(wanted), []
        if reason := damage(folder):
            raise InputError(
                f"resume_from_checkpoint: {folder}: expected a whole checkpoint of a run, "
                f"RUN_DIR/checkpoints/round-N, but {reason}"
            )
    state = load_trainer_state(folder)
    if not isinstance(state, dict) or not {"round", "settings", "prompts"} <= state.keys():
        raise InputError(
            f"resume_from_checkpoint: {folder}: its trainer_state.pt is of another version of "
            "nsr_fast; go on with that one, or train from the checkpoint with --model"
        )
    check_settings(config, state)
    folder = folder.resolve() if folder.is_symlink() else folder
    is_here = folder.resolve().parent == (run / "checkpoints").resolve()
    return Start(folder, state["round"], state, is_here, notes)


def check_settings(config: Config, state: Mapping) -> None:
    """Raise InputError for a setting of another run, or when all rounds are done."""
    saved, given = json.loads(state["settings"]), config.flat()
    for key in [*given, *saved]:
        if key in MAY_CHANGE or key not in FIELDS:
            continue
        before, now = (values.get(key, FIELDS[key].default) for values in (saved, given))
        if before != now and json.loads(json.dumps(now)) != before:
            raise InputError(
                f"{key}: the run was begun with {before!r}, got {now!r}; it cannot change on "
                "resume. Keep it, or begin a new run with the checkpoint as `model`"
            )
    if state["round"] >= config.run.max_rounds:
        raise InputError(
            f"max_rounds: the run has done round {state['round']} of {config.run.max_rounds}; "
            "raise max_rounds to go on"
        )


def check_prompts(prompts: Sequence[Prompt], state: Mapping) -> None:
    """Raise InputError unless these are the prompts that the run was trained on."""
    before, now = state["prompts"], prompts_digest(prompts)
    if before != now:
        raise InputError(
            f"data: expected the prompts that the run was begun with ({before}), got others "
            f"({now}); a resumed run takes its rows in the same order, so give it the same data, "
            "template and tokenizer"
        )


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """Their number and a hash of ids, tokens and answers."""
    digest = hashlib.sha256()
    for prompt in prompts:
        row = (prompt.id, prompt.token_ids, prompt.answer)
        digest.update(json.dumps(row, default=str).encode())
    return f"{len(prompts)} prompts, sha256 {digest.hexdigest()[:16]}"


def has_checkpoints(run: Path) -> bool:
    """Whether one was ever written; a half one that was never renamed is none."""
    return not Checkpoints(run / "checkpoints").is_empty


def nothing_to_resume(run: Path, notes: Sequence[str] = ()) -> str:
    """The words for a run without a whole checkpoint."""
    why = f" ({'; '.join(notes)})" if notes else ""
    again = f"--config {quote(str(run / 'config.yaml'))} --output_dir {quote(str(run))}"
    return (
        f"resume_from_checkpoint: {run} holds a run without a whole checkpoint{why}; begin it "
        f"again: nsr-fast train {again} --overwrite true"
    )
