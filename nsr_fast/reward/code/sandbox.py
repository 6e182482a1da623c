"""Runs one Python program in a fresh sandbox: no network, no files of ours, another user, limits.

    bwrap     bubblewrap: new namespaces, a root of read-only system folders and an empty /tmp
    unshare   the same by unshare(1) and chroot where bubblewrap is not installed
    none      limits only, for machines that can do neither; only when asked for by unsafe=True

What it does not cover: bugs of the kernel, and side channels such as timing.
"""

import contextlib
import io
import marshal
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

from nsr_fast.errors import InputError
from nsr_fast.reward.code.backends import ENVIRONMENT, PACKAGES, command_of

KILLED = "the supervisor was killed"
BACKENDS = ("bwrap", "unshare")
_FIRST_UID, _NUM_PAIRS = 200_000, 200_000  # two users a sandbox
_START_S, _SLACK_S = 20.0, 5.0
_TEXTS = ("values", "program", "server", "handles", "channel", "tests", "supervisor")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one program.

    time_limit_s  per input or call; all statements together count as one
    total_s       over all inputs or calls
    """

    time_limit_s: float = 5.0
    total_s: float = 30.0
    memory_mb: int = 512
    output_bytes: int = 8 << 20
    file_bytes: int = 16 << 20
    processes: int = 24


@dataclass(frozen=True, slots=True)
class Job:
    """A program and what to do with it: once per input, or served to the tests' process.

    prelude  {name: [module, attribute or None]} bound before the program
    tests    plain data, what inside_tests.py:run_tests takes
    """

    code: str
    inputs: tuple[str, ...] = ()
    prelude: dict = field(default_factory=dict)
    tests: dict | None = None


def run_program(
    code: str,
    *,
    inputs: tuple[str, ...] = (),
    limits: Limits | None = None,
    backend: str = "auto",
) -> dict:
    """Runs `code` once per input; the report of run_job."""
    return run_job(Job(code, inputs), limits=limits, backend=backend)


def run_job(job: Job, *, limits: Limits | None = None, backend: str = "auto") -> dict:
    """Runs a program in a fresh sandbox.

    Expected outputs never enter it; tests that call the program run in a process of their own.

    backend  "auto", "bwrap", "unshare" or "none"
    Returns  {"results": [{"status": ok | error | timeout | memory | output, "output": text}, ...]},
             up to the first that is not ok; for tests one result, done with the verdict as output;
             {"failed": text} when the sandbox itself did not report
    """
    limits = limits or Limits()
    backend = chosen_backend() if backend == "auto" else backend
    is_root = os.geteuid() == 0 and backend != "none"
    uid = _FIRST_UID + 2 * secrets.randbelow(_NUM_PAIRS) if is_root else 0
    config = {**asdict(limits), "code": job.code, "inputs": list(job.inputs), "uid": uid}
    config |= {"mode": "stdio" if job.tests is None else "calls", "prelude": job.prelude}
    config["is_isolated"] = backend != "none"
    frames = _supervisor() + _sized(marshal.dumps(config))
    if job.tests is not None:
        frames += _sized(marshal.dumps(job.tests))
    num = max(1, len(job.inputs), len((job.tests or {}).get("calls", ())))
    run_s = min(limits.time_limit_s * num, limits.total_s) * 3 + _SLACK_S
    return _report(backend, frames, run_s)


@lru_cache(maxsize=1)
def _supervisor() -> bytes:
    """The frame of what runs inside, compiled once: the sandbox runs this same Python."""
    folder = Path(__file__).parent
    texts = [(folder / f"inside_{name}.py").read_text(encoding="utf-8") for name in _TEXTS]
    return _sized(marshal.dumps(compile("\n".join(texts), "<sandbox>", "exec")))


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data


@lru_cache(maxsize=1)
def backend_problems() -> dict[str, str | None]:
    """{backend: None if it works on this machine, else the reason as text}."""
    return {name: _problem(name) for name in BACKENDS}


def chosen_backend(*, unsafe: bool = False) -> str:
    """The first backend that works; "none" only when unsafe, else InputError with the reasons."""
    problems = backend_problems()
    for name, problem in problems.items():
        if problem is None:
            return name
    if unsafe:
        return "none"
    reasons = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
    raise InputError(
        f"reward: code needs a sandbox and this machine has none ({reasons}); install bubblewrap, "
        "allow user namespaces, or set unsafe: true to run model code without isolation"
    )


def _problem(backend: str) -> str | None:
    if shutil.which(backend) is None:
        return "not installed"
    # The import comes after the change of user: the library must be readable to anyone inside.
    program = "import fractions, socket\nprint(fractions.Fraction(84, 2))"
    result = run_program(program, inputs=("",), backend=backend)
    if result.get("results") == [{"status": "ok", "output": "42\n"}]:
        return None
    return result.get("failed", "does not run a program")


def _report(backend: str, frames: bytes, run_s: float) -> dict:
    """What the supervisor in the sandbox reports, within run_s of its start."""
    with (
        tempfile.TemporaryDirectory(prefix="nsr_fast_") as folder,
        open(os.memfd_create("frames"), "w+b", buffering=0) as source,
    ):
        _write_all(source, frames)
        process = subprocess.Popen(
            command_of(backend, folder),
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            env=ENVIRONMENT,
        )
        try:
            output, errors = _communicated(process, run_s)
        except subprocess.TimeoutExpired as error:
            return {"failed": KILLED if error.output else f"no start within {_START_S:.0f} s"}
        finally:
            _kill_group(process)
    results = _results(output)
    if results is not None:
        return {"results": results}
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    has_started = output.startswith(b" ")
    return {"failed": KILLED if has_started or not lines else lines[-1][:200]}


def _results(output: bytes) -> list[dict] | None:
    """The supervisor's report: a blank, then "status size", a newline and the output of each."""
    results, rest = [], output.removeprefix(b" ")
    while rest:
        line, _, rest = rest.partition(b"\n")
        status, _, size = line.partition(b" ")
        if not size.isdigit():
            return None
        if status == b"end":
            return results
        text = rest[: int(size)].decode("utf-8", "replace")
        results.append({"status": status.decode("ascii", "replace"), "output": text})
        rest = rest[int(size) :]
    return None


def _write_all(file: io.RawIOBase, data: bytes) -> None:
    """All of data, to be read from its start: a pipe would need a writer during the start."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    file.seek(0)


def _communicated(process: subprocess.Popen, run_s: float) -> tuple[bytes, bytes]:
    """Output and errors; TimeoutExpired when the start or the run behind it takes too long.

    A program can stop its supervisor, and then only the host's clock ends it.
    """
    end, has_started = time.monotonic() + _START_S, False
    while True:
        try:
            return process.communicate(timeout=0.5)
        except subprocess.TimeoutExpired as error:
            if error.output and not has_started:
                end, has_started = time.monotonic() + run_s, True
            if time.monotonic() > end:
                raise


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def package_problem(backend: str) -> str | None:
    """Why a program cannot import a package of PACKAGES, or None."""
    for name in PACKAGES:
        job = Job(f"import {name}\nprint({name}.arange(3).sum())", ("",))
        if run_job(job, backend=backend).get("results") != [{"status": "ok", "output": "3\n"}]:
            return f"{name} cannot be imported by programs; one that needs it is wrong"
    return None
