"""Runs inside the sandbox as the supervisor of one program; Python gets it as compiled text.

Standard input holds frames (8 bytes of length, then marshal): the program with its limits, and for
tests that call it the tests. The program runs in a forked child of another user; tests that call
it run in a second child, forked later and of a third user, and what it says is the verdict. A blank
on standard output says that the program is about to start. Follows the texts of the other
inside_*.py, whose functions it uses; imports nothing of ours.
"""

import ctypes
import marshal
import os
import resource
import select
import signal
import sys
import time

CAPABILITY_VERSION_3 = 0x20080522
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38


def main():
    config = frame()
    sys.set_int_max_str_digits(0)
    if config["mode"] == "calls":
        import json  # noqa: F401  once for both children
    drop_privileges(config)
    os.write(1, b" ")
    run = run_calls if config["mode"] == "calls" else run_inputs
    for status, content in run(config):
        send(1, b"%s %d\n" % (status.encode(), len(content)) + content)
    send(1, b"end 0\n")


def frame():
    """The next frame of standard input, read to its last byte and no further."""
    return marshal.loads(sized_frame(0))


def drop_privileges(config):
    """Another user, no capability to gain, limits, and no look into this process.

    The real user is the program's, which lets this process end it; the effective one is another,
    so that the program can neither trace nor signal the tests' process.
    """
    prctl = ctypes.CDLL(None).prctl
    for capability in range(64):
        prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    if config["uid"]:
        own = config["uid"] + 1
        os.setgroups([])
        os.setresgid(config["uid"], own, own)
        os.setresuid(config["uid"], own, own)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())  # no capability of any kind
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if config["is_isolated"]:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of user has cleared it
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
    results, end = [], time.monotonic() + config["total_s"]
    for text in config["inputs"]:
        source = os.memfd_create("input")
        send(source, text.encode("utf-8", "surrogatepass"))
        os.lseek(source, 0, os.SEEK_SET)
        read_end, write_end = os.pipe()
        os.fchmod(write_end, 0o622)  # /dev/stdout can be opened
        limit_s = min(config["time_limit_s"], end - time.monotonic())
        pid = fork()
        if pid == 0:
            enter(source, write_end, config)
            flush_and_exit(execute(config["code"], "__main__", config["prelude"])[0])
        os.close(write_end)
        os.close(source)
        output, status = collected(read_end, Clock(pid, limit_s, config), config)
        os.close(read_end)
        results.append((status, output))
        clear_processes(config)
        if status != "ok":
            break
    return results


def run_calls(config):
    """[(status, verdict)] of the tests' process; an empty verdict when it did not come to one."""
    replies_at, to_tests = os.pipe()
    requests_at, to_program = os.pipe()
    program = fork()
    if program == 0:
        channel = os.dup(requests_at), os.dup(to_tests)
        os.dup2(channel[0], 40), os.dup2(channel[1], 41)
        enter(os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY), config)
        os._exit(serve_calls(config, 40, 41) or 0)
    os.close(to_tests)
    os.close(requests_at)
    verdict_at, to_supervisor = os.pipe()
    tests = fork()
    if tests == 0:
        os.close(verdict_at)
        judge(config, replies_at, to_program, to_supervisor)
    for fd in (to_supervisor, replies_at, to_program):
        os.close(fd)
    status, verdict = awaited(verdict_at, program, config)
    kill_child(tests)
    kill_child(program)
    clear_processes(config)
    return [(status, verdict)]


def awaited(verdict_at, program, config):
    """(status, verdict) from the tests' process; a dot from it starts the time of another call."""
    end = time.monotonic() + config["total_s"]
    while True:
        limit_s = min(config["time_limit_s"], end - time.monotonic())
        clock = Clock(program, limit_s, config)
        if not until(verdict_at, clock):
            return clock.cause, b""
        said = os.read(verdict_at, 64)
        if not said or said.strip(b"."):
            return "done", said.strip(b".")


def judge(config, replies_at, requests_at, verdict_at):
    """The tests' process: reads the tests, runs them, and writes the verdict as the last thing."""
    if config["uid"]:
        own = config["uid"] + 1
        os.setresgid(own, own, own)
        os.setresuid(own, own, own)
    message = frame()
    for fd in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), fd)
    os.setsid()
    sys.stdout = sys.stderr = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    prepare_interpreter()
    for name in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(name, signal.SIG_DFL)

    def end(verdict, write=os.write, leave=os._exit):
        write(verdict_at, verdict)
        leave(0)

    program = Program(replies_at, requests_at, 4 * config["output_bytes"], end)
    message["tick"] = lambda: os.write(verdict_at, b".")
    end(verdict_of(message, program))


def collected(fd, clock, config):
    """(output, status) of a child, killed at the time limit or the output limit."""
    pid = clock.pid
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

    def __init__(self, pid, limit_s, config):
        self.pid, self.limit_s, self.start = pid, limit_s, time.monotonic()
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
            try:
                with open(f"/proc/{name}/statm") as file:
                    pages += int(file.read().split()[1])
            except OSError:  # it has ended
                continue
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
    for end in (lambda: os.killpg(pid, signal.SIGKILL), lambda: os.kill(pid, signal.SIGKILL)):
        attempt(end)
    attempt(lambda: os.waitpid(pid, 0))


def clear_processes(config):
    """Ends whatever the program left running; every process of this user is in our namespace."""
    if config["is_isolated"]:
        attempt(lambda: os.kill(-1, signal.SIGKILL))
        while attempt(lambda: os.waitpid(-1, 0)):  # as first process of the namespace we reap all
            pass


def attempt(call):
    """The call's result; None when the process that it is about is gone."""
    try:
        return call()
    except OSError:
        return None


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
