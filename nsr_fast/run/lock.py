"""One process at a time trains in a run directory: a lock that dies with its owner, kill -9 too."""

import fcntl
import os
import socket
from pathlib import Path

from nsr_fast.errors import InputError

_NAME = ".lock"


class RunLock:
    """Use as a context manager; makes the folder. Raises InputError while another process has it.

    A POSIX record lock: a child does not inherit it, and the kernel drops it with its owner.
    """

    def __init__(self, folder: Path):
        self._path = folder / _NAME

    def __enter__(self) -> "RunLock":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "a+")
        except OSError as error:
            folder = self._path.parent
            raise InputError(f"output_dir: cannot write in {folder}: {error.strerror}") from None
        _lock(self._file, self._path)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.truncate(0)
        if os.listdir(self._path.parent) == [_NAME]:  # nothing came of it
            self._path.unlink()
            self._path.parent.rmdir()
        self._file.close()


def check_unlocked(folder: Path) -> None:
    """Raise InputError when a process trains in `folder` now. Changes nothing."""
    path = folder / _NAME
    if path.is_file() and os.access(path, os.W_OK):
        with open(path, "a+") as file:
            _lock(file, path)


def _lock(file, path: Path) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise InputError(
            f"output_dir: {owner} trains in {path.parent} now; wait for it, or choose another "
            "directory"
        ) from None
