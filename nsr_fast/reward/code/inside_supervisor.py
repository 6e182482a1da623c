"""Runs inside the sandbox as the supervisor of one program; passed to Python as text.

Standard input holds two frames (8 bytes of length, then JSON): the program with its limits, and for
assert tests the steps of steps.py with a token. The program runs in a forked child that gets
one step at a time and, behind the last, the token to return. A blank on standard output says that
the program is about to start. Follows the texts of inside_values.py and
inside_child.py, whose functions it uses; imports nothing of ours.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import time

CAPABILITY_VERSION_3 = 0x20080522
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 24, 38


def main():
    config = frame()
    drop_privileges(config)
    os.write(1, b" ")
    run = run_asserts if config["mode"] == "assert" else run_inputs
    report = json.dumps(run(config)).encode()
    while report:
        report = report[os.write(1, report) :]


def frame():
    """The next frame of standard input, read to its last byte and no further."""
    size = int.from_bytes(exactly(0, 8), "little")
    return json.loads(exactly(0, size))


def drop_privileges(config):
    """Another user, no capability to gain, limits, and no look into this process."""
    prctl = ctypes.CDLL(None).prctl
    for capability in range(64):
        prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    if config["uid"]:
        os.setgroups([])
        os.setresgid(config["uid"], config["uid"], config["uid"])
        os.setresuid(config["uid"], config["uid"], config["uid"])
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())  # no capability of any kind
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    memory = config["memory_mb"] << 20
    for name, limit in (
        ("RLIMIT_AS", memory),
        ("RLIMIT_FSIZE", config["file_bytes"]),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NPROC", config["processes"]),
    ):
        if name != "RLIMIT_NPROC" or config["is_isolated"]:
            resource.setrlimit(getattr(resource, name), (limit, limit))


def run_inputs(config):
    """Output and status of the program for every input; stops after the first that fails."""
    results = []
    for text in config["inputs"]:
        source = os.memfd_create("input")
        os.write(source, text.encode())
        os.lseek(source, 0, os.SEEK_SET)
        read_end, write_end = os.pipe()
        pid = fork()
        if pid == 0:
            enter(source, write_end, config)
            status = execute(config["code"], "__main__")[0]
            flush_and_exit(status)
        os.close(write_end)
        os.close(source)
        output, status = collected(read_end, pid, config)
        os.close(read_end)
        results.append({"status": status, "output": output.decode("utf-8", "replace")})
        clear_processes(config)
        if status != "ok":
            break
    return {"results": results}


def run_asserts(config):
    """{"replies", "token"} of the child; the token only when it came past its last step."""
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    pid = fork()
    if pid == 0:
        os.close(from_child)
        os.close(to_child)
        steps_at, replies_at = os.dup2(from_parent, 40), os.dup2(to_parent, 41)
        enter(os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY), config)
        os.closerange(42, 64)
        flush_and_exit(serve_steps(config["code"], steps_at, replies_at))
    os.close(to_parent)
    os.close(from_parent)
    clock = Clock(pid, config)
    replies, token = [], None
    if reply(from_child, clock, config) == b"ready":
        message = frame()
        for kind, text in message["steps"]:
            send(to_child, sized((kind + text).encode()))
            if (answer := reply(from_child, clock, config)) is None:
                break
            replies.append(answer.decode("utf-8", "replace"))
        else:
            send(to_child, sized(b"t" + message["token"].encode()))
            token = reply(from_child, clock, config)
    status = "timeout" if token is None and clock.is_over() else "done"
    kill_child(pid)
    clear_processes(config)
    return {
        "replies": replies,
        "token": (token or b"").decode("ascii", "replace"),
        "status": status,
    }


def reply(fd, clock, config):
    """The next sized message of the child; None at the time limit, its end or beyond its limit."""
    data = b""
    while len(data) < 8 or len(data) < 8 + int.from_bytes(data[:8], "little"):
        chunk = os.read(fd, 65536) if until(fd, clock) else b""
        data += chunk
        if not chunk or len(data) > 4 * config["output_bytes"]:
            return None
    return data[8:]


def collected(fd, pid, config):
    """(output, status) of a child, killed at the time limit or the output limit."""
    clock = Clock(pid, config)
    output, code, is_open = bytearray(), None, True
    while True:
        if is_open and select.select([fd], [], [], 0.02 if code is None else 0)[0]:
            chunk = os.read(fd, 65536)
            output += chunk
            is_open = bool(chunk)
        elif code is not None:
            return bytes(output), "ok" if code == 0 else "error"
        elif not is_open:
            time.sleep(0.002)
        code = ended(pid) if code is None else code
        is_too_long = len(output) > config["output_bytes"]
        if is_too_long or (code is None and clock.is_over()):
            kill_child(pid)
            return b"", "output" if is_too_long else clock.cause


class Clock:
    """The limits of a process while it runs: time, memory of all processes, a reader of the report.

    Waiting for a core, up to twice the time limit, does not count.
    """

    def __init__(self, pid, config):
        self.pid, self.limit_s, self.start = pid, config["time_limit_s"], time.monotonic()
        self.memory = config["is_isolated"] and 2 * (config["memory_mb"] << 20)
        self.reader = select.poll()
        self.reader.register(1, 0)
        self.cause = "timeout"

    def is_over(self):
        if self.memory and resident_bytes() > self.memory:
            self.cause = "memory"
        if self.cause == "memory" or self.reader.poll(0):
            return True
        elapsed = time.monotonic() - self.start
        if elapsed < self.limit_s:
            return False
        return elapsed > 3 * self.limit_s or elapsed - self.waited_s() > self.limit_s

    def waited_s(self):
        """Time in the run queue; 0 where the system does not tell."""
        try:
            with open(f"/proc/{self.pid}/schedstat") as file:
                return int(file.read().split()[1]) / 1e9
        except (OSError, IndexError):
            return 0.0


def resident_bytes():
    """Memory of all processes in the sandbox; what they share counts once for each."""
    pages = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/statm") as file:
                pages += int(file.read().split()[1])
    return pages * resource.getpagesize()


def ended(pid):
    """The child's wait status, None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return status if found else None


def until(fd, clock):
    """True when there is something to read before the time is over."""
    while not select.select([fd], [], [], 0.02)[0]:
        if clock.is_over():
            return False
    return True


def send(fd, data):
    """Writes all of data; a child that is gone or does not read ends it."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass


def kill_child(pid):
    for target in (lambda: os.killpg(pid, signal.SIGKILL), lambda: os.kill(pid, signal.SIGKILL)):
        with contextlib.suppress(OSError):
            target()
    with contextlib.suppress(OSError):
        os.waitpid(pid, 0)


def clear_processes(config):
    """Ends whatever the program left running; every process of this user is in our namespace."""
    if config["is_isolated"]:
        with contextlib.suppress(OSError):
            os.kill(-1, signal.SIGKILL)


def fork():
    """os.fork, waiting a moment for killed processes to be reaped when the limit is reached."""
    for _ in range(50):
        try:
            return os.fork()
        except BlockingIOError:
            time.sleep(0.02)
    return os.fork()


if __name__ == "__main__":
    main()
