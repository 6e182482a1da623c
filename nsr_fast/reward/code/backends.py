"""How each backend starts the supervisor: the walls of the sandbox and what is shown inside.

bwrap     bubblewrap: new namespaces, a root of read-only system folders and an empty /tmp
unshare   the same by unshare(1) and chroot where bubblewrap is not installed
none      limits only
"""

import importlib.util
import os
import shutil
import sys
from functools import lru_cache
from pathlib import Path

PACKAGES = ("numpy",)
# This Python without its virtual environment.
_PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
_START = (  # runs the first frame of standard input
    "import os, marshal\n"
    "def take(n):\n"
    "    data = b''\n"
    "    while len(data) < n:\n"
    "        data += os.read(0, n - len(data)) or exit()\n"
    "    return data\n"
    "exec(marshal.loads(take(int.from_bytes(take(8), 'little'))))\n"
)
_TMPFS = ["--perms", "1777", "--size", str(64 << 20), "--tmpfs"]
_WRITABLE = [*_TMPFS, "/tmp", *_TMPFS, "/dev/shm", "--remount-ro", "/dev"]
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}
ENVIRONMENT |= {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}

# $1 is an empty folder; $2 the folders and $3 the packages to show, colon-separated; the command.
_UNSHARE_SCRIPT = """set -e
root=$1; folders=$2; packages=$3; shift 3
mount --make-rprivate /
mount -t tmpfs -o mode=755,size=64m tmpfs "$root"
IFS=:
for folder in $folders; do
  if [ -L "$folder" ]; then ln -s "$(readlink "$folder")" "$root$folder"; continue; fi
  mkdir -p "$root$folder"
  mount --rbind "$folder" "$root$folder"
  mount -o remount,bind,ro "$root$folder" 2>/dev/null || true
done
for folder in $packages; do
  shown="$root/packages/${folder##*/}"
  mkdir -p "$shown"
  mount --bind "$folder" "$shown"
  mount -o remount,bind,ro "$shown" 2>/dev/null || true
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


def command_of(backend: str, folder: str) -> list[str]:
    """The command that runs the first frame of its standard input inside; folder is empty."""
    python = [_PYTHON, "-I", "-S", "-c", _START]
    if backend == "bwrap":
        return [*_bwrap(), "--", *python]
    if backend == "unshare":
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        spaces = ["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
        script = ["sh", "-c", _UNSHARE_SCRIPT, "sandbox", folder, ":".join(_shown_folders())]
        script.append(":".join(_packages()))
        return [shutil.which("unshare") or "unshare", *user, *spaces, *script, *python]
    if backend == "none":
        return python
    raise ValueError(f"backend: expected auto, bwrap, unshare or none, got {backend!r}")


def _bwrap() -> list[str]:
    path = shutil.which("bwrap") or "bwrap"  # the sandbox's PATH is not the user's
    command = [path, "--die-with-parent", "--new-session", "--clearenv", "--chdir", "/tmp"]
    command += ["--as-pid-1"]  # the supervisor is out of reach of signals, and reaps all
    if os.geteuid() == 0:  # no user namespace needed; the supervisor changes to another user
        command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        command += ["--unshare-cgroup-try", "--cap-drop", "ALL", "--cap-add", "CAP_SETUID"]
        command += ["--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
    else:
        command += ["--unshare-all", "--cap-drop", "ALL"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    for folder in _shown_folders():
        for parent in reversed(Path(folder).parents[:-1]):
            command += ["--perms", "0755", "--dir", str(parent)]  # else closed to other users
        is_link = os.path.islink(folder)
        command += (
            ["--symlink", os.readlink(folder), folder] if is_link else ["--ro-bind", folder, folder]
        )
    if _packages():
        command += ["--perms", "0755", "--dir", "/packages"]
    for folder in _packages():
        command += ["--ro-bind", folder, f"/packages/{Path(folder).name}"]
    return [*command, "--proc", "/proc", "--dev", "/dev", *_WRITABLE]


@lru_cache(maxsize=1)
def _shown_folders() -> tuple[str, ...]:
    """Read-only folders of the sandbox: the system's libraries and this Python."""
    folders = [f for f in ("/usr", "/bin", "/lib", "/lib64") if os.path.exists(f)]
    prefix = os.path.realpath(sys.base_prefix)
    if not prefix.startswith("/usr"):
        folders.append(prefix)
    return tuple(folders)


@lru_cache(maxsize=1)
def _packages() -> tuple[str, ...]:
    """Folders of the packages of this Python that programs may import, with their libraries."""
    folders = []
    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        if found and found.origin:
            folder = Path(found.origin).resolve().parent
            folders += [folder, folder.with_name(f"{name}.libs")]
    return tuple(str(folder) for folder in folders if folder.is_dir())
