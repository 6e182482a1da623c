"""Runs one Python program in a fresh sandbox: no network, no files of ours, another user, limits.

    bwrap     bubblewrap: new namespaces, a root of read-only system folders and an empty /tmp
    unshare   the same by unshare(1) and chroot where bubblewrap is not installed
    none      limits only, for machines that can do neither; only when asked for by unsafe=True

What it does not cover: bugs of the kernel, and side channels such as timing.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from nsr_fast.errors import InputError
from nsr_fast.reward.code.inside_child import sized
from nsr_fast.reward.code.steps import Step, steps_of

KILLED = "the supervisor was killed"
BACKENDS = ("bwrap", "unshare")
_FIRST_UID, _NUM_UIDS = 200_000, 400_000
_START_S, _SLACK_S = 20.0, 5.0
# This Python without its virtual environment.
_PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
_SUPERVISOR = "\n".join(
    Path(__file__).with_name(name).read_text(encoding="utf-8")
    for name in ("inside_values.py", "inside_child.py", "inside_supervisor.py")
)
_TMPFS = ["--perms", "1777", "--size", str(64 << 20), "--tmpfs"]
_WRITABLE = [*_TMPFS, "/tmp", *_TMPFS, "/dev/shm", "--remount-ro", "/dev"]
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}

# $1 is an empty folder; $2 the folders to show, colon-separated; the command follows.
_UNSHARE_SCRIPT = """set -e
root=$1; folders=$2; shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=755,size=64m tmpfs "$root"
IFS=:
for folder in $folders; do
  if [ -L "$folder" ]; then ln -s "$(readlink "$folder")" "$root$folder"; continue; fi
  mkdir -p "$root$folder"
  mount --rbind "$folder" "$root$folder"
  mount -o remount,bind,ro "$root$folder" 2>/dev/null || true
done
unset IFS
mkdir -p "$root/proc" "$root/tmp" "$root/dev"
mkdir -p "$root/dev/shm"
chmod 1777 "$root/tmp" "$root/dev/shm"
mount -t proc proc "$root/proc"
for device in null zero urandom; do
  touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
cd "$root"
exec chroot "$root" "$@"
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one program; time is per input (all asserts together count as one)."""

    time_limit_s: float = 5.0
    memory_mb: int = 512
    output_bytes: int = 1 << 20
    file_bytes: int = 16 << 20
    processes: int = 24


def run_program(
    code: str,
    *,
    inputs: tuple[str, ...] = (),
    tests: tuple[str, ...] = (),
    limits: Limits | None = None,
    backend: str = "auto",
) -> dict:
    """Runs `code` once per input, or once followed by `tests` (statements with asserts).

    Expected outputs, and the values that asserts compare a call with, never enter the sandbox.

    backend  "auto", "bwrap", "unshare" or "none"
    Returns  inputs: {"results": [{"status": ok | error | timeout | output, "output": text}, ...]},
             up to the first that is not ok; tests: {"passed": bool, "status": done | timeout};
             {"failed": text} when the sandbox itself did not report
    """
    limits = limits or Limits()
    backend = chosen_backend() if backend == "auto" else backend
    token = secrets.token_hex(32)
    is_root = os.geteuid() == 0
    uid = _FIRST_UID + secrets.randbelow(_NUM_UIDS) if is_root and backend != "none" else 0
    mode = "assert" if tests else "stdio"
    config = {**asdict(limits), "code": code, "inputs": list(inputs), "mode": mode, "uid": uid}
    config["is_isolated"] = backend != "none"
    frames = sized(json.dumps(config).encode())
    steps = steps_of(tests)
    if tests:
        sent = [("v" if step.is_value else "x", step.text) for step in steps]
        frames += sized(json.dumps({"steps": sent, "token": token}).encode())
    run_s = limits.time_limit_s * max(1, len(inputs)) * 3 + _SLACK_S
    report = _report(backend, frames, run_s)
    if "token" in report:
        passed = secrets.compare_digest(str(report["token"]).encode(), token.encode())
        passed = passed and _all_pass(steps, report.get("replies", []))
        return {"passed": passed, "status": report.get("status", "done")}
    return report


def _all_pass(steps: list[Step], replies: list[str]) -> bool:
    try:
        values = [json.loads(text) for text in replies]
    except (ValueError, RecursionError):
        return False
    return len(values) == len(steps) and all(s.passes(v) for s, v in zip(steps, values))


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
    with tempfile.TemporaryDirectory(prefix="nsr_fast_") as folder:
        process = subprocess.Popen(
            _command(backend, folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            env=_ENVIRONMENT,
        )
        try:
            output, errors = _communicated(process, frames, run_s)
        except subprocess.TimeoutExpired as error:
            return {"failed": KILLED if error.output else f"no start within {_START_S:.0f} s"}
        finally:
            _kill_group(process)
    try:
        report = json.loads(output)
    except ValueError:
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        has_started = output.startswith(b" ")
        return {"failed": KILLED if has_started or not lines else lines[-1][:200]}
    return report if isinstance(report, dict) else {"failed": "no report"}


def _communicated(process: subprocess.Popen, frames: bytes, run_s: float) -> tuple[bytes, bytes]:
    """Output and errors; TimeoutExpired when the start or the run behind it takes too long.

    A program can stop its supervisor, and then only the host's clock ends it.
    """
    end, has_started = time.monotonic() + _START_S, False
    unsent: bytes | None = frames
    while True:
        try:
            return process.communicate(unsent, timeout=0.5)
        except subprocess.TimeoutExpired as error:
            unsent = None  # a second call goes on with the first one's input
            if error.output and not has_started:
                end, has_started = time.monotonic() + run_s, True
            if time.monotonic() > end:
                raise


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _command(backend: str, folder: str) -> list[str]:
    python = [_PYTHON, "-I", "-S", "-c", _SUPERVISOR]
    if backend == "bwrap":
        return [*_bwrap(), "--", *python]
    if backend == "unshare":
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        spaces = ["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
        script = ["sh", "-c", _UNSHARE_SCRIPT, "sandbox", folder, ":".join(_shown_folders())]
        return [shutil.which("unshare") or "unshare", *user, *spaces, *script, *python]
    if backend == "none":
        return python
    raise ValueError(f"backend: expected auto, bwrap, unshare or none, got {backend!r}")


def _bwrap() -> list[str]:
    path = shutil.which("bwrap") or "bwrap"  # the sandbox's PATH is not the user's
    command = [path, "--die-with-parent", "--new-session", "--clearenv", "--chdir", "/tmp"]
    if os.geteuid() == 0:  # no user namespace needed; the supervisor changes to another user
        command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        command += ["--unshare-cgroup-try", "--cap-drop", "ALL", "--cap-add", "CAP_SETUID"]
        command += ["--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
    else:
        command += ["--unshare-all", "--cap-drop", "ALL"]
    for name, value in _ENVIRONMENT.items():
        command += ["--setenv", name, value]
    for folder in _shown_folders():
        for parent in reversed(Path(folder).parents[:-1]):
            command += ["--perms", "0755", "--dir", str(parent)]  # else closed to other users
        is_link = os.path.islink(folder)
        command += (
            ["--symlink", os.readlink(folder), folder] if is_link else ["--ro-bind", folder, folder]
        )
    return [*command, "--proc", "/proc", "--dev", "/dev", *_WRITABLE]


@lru_cache(maxsize=1)
def _shown_folders() -> tuple[str, ...]:
    """Read-only folders of the sandbox: the system's libraries and this Python."""
    folders = [f for f in ("/usr", "/bin", "/lib", "/lib64") if os.path.exists(f)]
    prefix = os.path.realpath(sys.base_prefix)
    if not prefix.startswith("/usr"):
        folders.append(prefix)
    return tuple(folders)
