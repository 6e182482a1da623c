"""A worker process of the verifier: `python -m` this module with PARENT DEADLINE_S MEMORY_MB.

The process imports math-verify once, then forks a child that judges one request a line from
standard input. When the child is killed (deadline) or dies (memory, crash), the next is forked in
milliseconds. Neither imports torch. The child may not write files and dies with its parent.

    child   {"hello": pid}, then for each request {"id", "verdict", "reason", "last": bool}
    request {"id": int, "golds": [...], "candidate": ...}
"""

import ctypes
import gc
import json
import os
import resource
import signal
import sys

MAX_REQUESTS = 5000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_WARM_UP = (  # fills the parser's caches, which children inherit: their first formulas take half
    r"2\sqrt{12}",
    r"x^{2}+\frac{5\pi}{6}",
    r"(x+1)^{2}-3\cdot y",
    r"\frac{\sqrt{6}+\log_{2}(3)}{(x_{1}+2)(x-1)}",
    r"\sin(2\theta)+e^{i\pi/3}",
    r"((a-b)(a+b))^{-1}",
)


def main(arguments: list[str]) -> int:
    parent, deadline_s, memory_mb = int(arguments[0]), float(arguments[1]), int(arguments[2])
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-c is the parent's to handle
    from nsr_fast.reward.math.symbolic import formulas_equal

    for text in _WARM_UP:
        formulas_equal(text, "x+1")
    gc.freeze()
    zygote = os.getpid()
    while True:
        _exit_without(parent)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _die_with(zygote)
                status = _child(formulas_equal, deadline_s, memory_mb)
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return 0


def _die_with(parent: int) -> None:
    """The kernel kills this process when its parent ends, even by SIGKILL; Linux only."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _exit_without(parent)


def _exit_without(parent: int) -> None:
    """Ends a process whose parent is gone, perhaps before the kernel was asked to tell."""
    if os.getppid() != parent:
        os._exit(0)


def _child(formulas_equal, deadline_s: float, memory_mb: int) -> int:
    """Serves requests; 0 at the end of input, 1 when a fresh child should take over."""
    memory = memory_mb << 20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sys.setrecursionlimit(5000)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the LaTeX parser complains about odd formulas
    _reply({"hello": os.getpid()})
    for count in range(1, MAX_REQUESTS + 1):
        line = _line()
        if not line:
            return 0
        used = sum(os.times()[:2])
        limit = int(used + deadline_s + 2)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        request = json.loads(line)
        reply = _judged(request, formulas_equal)
        is_full = reply["verdict"] != "correct" and _peak_bytes() > memory - _reserve_bytes(memory)
        if is_full:
            reply = {"verdict": "unscored", "reason": "memory"}
        is_last = is_full or count == MAX_REQUESTS
        _reply({**reply, "id": request["id"], "last": is_last})
        if is_last:
            break
    return 1


def _reserve_bytes(memory: int) -> int:
    return min(memory // 8, 32 << 20)


def _peak_bytes() -> int:
    """The most address space that this process ever had; 0 where the system does not tell.

    math-verify takes a MemoryError for a formula that cannot be read, so the limit must be seen
    from outside: an answer that met it is unscored, not wrong.
    """
    try:
        with open("/proc/self/status", "rb") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line[:7] == b"VmPeak:")
    except (OSError, StopIteration, MemoryError):
        return 0 if not sys.platform.startswith("linux") else sys.maxsize


def _judged(request: dict, formulas_equal) -> dict[str, str]:
    from nsr_fast.reward.math.judge import full_judgement

    try:
        score = full_judgement(tuple(request["golds"]), request["candidate"], formulas_equal)
    except Exception as error:  # sympy raises types of its own on odd formulas
        return {"verdict": "unscored", "reason": f"crash: {type(error).__name__}"}
    return {"verdict": score.verdict.value, "reason": score.reason}


def _line() -> bytes:
    """The last complete line of standard input, b"" at its end.

    An earlier one was left by a child that died; its sender has stopped waiting for an answer.
    """
    chunks = []
    while not chunks or not chunks[-1].endswith(b"\n"):
        chunk = os.read(0, 65536)
        if not chunk:
            return b""
        chunks.append(chunk)
    return b"".join(chunks).splitlines()[-1]


def _reply(message: dict) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
