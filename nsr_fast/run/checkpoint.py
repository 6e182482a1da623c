"""One checkpoint: a folder that transformers and vLLM load, with the trainer's state and a
manifest; written whole or not at all, and checked before it is read.

    NAME.unfinished   being written or removed
    NAME.replaced     the one whose place NAME takes, until NAME is there
"""

import errno
import hashlib
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from nsr_fast import __version__
from nsr_fast.errors import InputError
from nsr_fast.model.adapter import adapted_layers
from nsr_fast.model.adapter_files import save_adapter
from nsr_fast.model.load import Policy, Tokenizer
from nsr_fast.model.save import save_all_but_weights, save_model

MANIFEST, TRAINER_STATE = "manifest.json", "trainer_state.pt"
UNFINISHED, REPLACED = ".unfinished", ".replaced"


def save_checkpoint(
    folder: Path, policy: Policy, tokenizer: Tokenizer, trainer_state: Mapping[str, object] | None
) -> None:
    """Write `folder` whole or not at all; one of its name is replaced.

    trainer_state   plain values and tensors; None leaves it out: such a run cannot be resumed

    Of a policy with adapters these alone, in PEFT's format. Raises OSError when it cannot be
    written: what lay under the name lies there still.
    """
    unfinished = folder.with_name(folder.name + UNFINISHED)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        if adapted_layers(policy):
            save_adapter(unfinished, policy)
        else:
            save_model(unfinished, policy)
        tokenizer.save_pretrained(unfinished)
        if trainer_state is not None:
            with open(unfinished / TRAINER_STATE, "wb") as file:  # by name torch hides the reason
                torch.save(dict(trainer_state), file)
        _seal(unfinished, None if trainer_state is None else trainer_state.get("round"))
        _put_in_place(unfinished, folder)
    except Exception as error:  # a full disk: safetensors, tokenizers, torch raise what they like
        _take_back(unfinished, folder)
        raise OSError(f"cannot save {folder}: {_reason(error)}; {_free(folder)}") from error
    except BaseException:
        _take_back(unfinished, folder)
        raise


def check_saveable(model: str, tokenizer: Tokenizer) -> None:
    """InputError when what a checkpoint of `model` holds beside its weights cannot be written."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            save_all_but_weights(Path(folder), model, tokenizer)
    except Exception as error:
        raise InputError(
            f"model: {model}: its config or tokenizer files can be read but not saved again with a "
            f"checkpoint: {_reason(error)}; mend them before a run of hours ends in that"
        ) from error


def damage(folder: Path) -> str | None:
    """Why the checkpoint is not the one that was written, or None. Reads every byte."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        for measure in (_size, _sha256):  # what was cut short is found without reading
            for name, expected in files.items():
                kind = "bytes" if measure is _size else "sha256"
                if (got := measure(folder / name)) != expected[kind]:
                    return f"{name}: expected {kind} {expected[kind]}, got {got}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"cannot be read: {error}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is not one of ours: {_reason(error)}"
    return None


def load_trainer_state(folder: Path) -> dict:
    """What save_checkpoint got, its tensors mapped from the file. InputError when absent."""
    path = folder / TRAINER_STATE
    if not path.is_file():
        raise InputError(
            f"{folder}: no {TRAINER_STATE}: saved with save_only_weights, it cannot be resumed; "
            "train from it with --model"
        )
    try:
        return torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from None


def sync_folder(folder: Path) -> None:
    """Names in it survive a power cut, where the file system can do that."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _seal(folder: Path, round_index: object) -> None:
    """Everything on the disk, then the manifest that says so."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    mode = files[0].stat().st_mode  # safetensors writes for the owner alone
    entries = {}
    for path in files:
        path.chmod(mode)
        _sync(path)
        name = path.relative_to(folder).as_posix()
        entries[name] = {"bytes": _size(path), "sha256": _sha256(path)}
    manifest = {"round": round_index, "files": entries, "nsr_fast": __version__}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    _sync(folder / MANIFEST)
    for inner in {path.parent for path in files} | {folder}:
        sync_folder(inner)


def _put_in_place(unfinished: Path, folder: Path) -> None:
    replaced = folder.with_name(folder.name + REPLACED)
    if folder.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.replace(folder, replaced)
    os.replace(unfinished, folder)
    sync_folder(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _take_back(unfinished: Path, folder: Path) -> None:
    """After a failure: the old checkpoint under its name, no half of a new one."""
    replaced = folder.with_name(folder.name + REPLACED)
    if replaced.exists() and not folder.exists():
        with suppress(OSError):  # else it is found under its other name
            os.replace(replaced, folder)
    shutil.rmtree(unfinished, ignore_errors=True)


def _size(path: Path) -> int:
    return path.stat().st_size


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: BaseException) -> str:
    """The first line of what went wrong: the operating system's own words where there are any."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, OSError):
        inner = inner.__cause__ or inner.__context__
    text = str(inner or error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _free(folder: Path) -> str:
    parent = next(path for path in folder.absolute().parents if path.exists())
    return f"{shutil.disk_usage(parent).free / 2**20:.0f} MiB are free in {parent}"
