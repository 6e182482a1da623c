"""What the program's process does inside the sandbox, between its fork and its end.

Stands between the texts of inside_values.py and inside_supervisor.py.
"""

import os
import resource
import sys
import types


def serve_steps(code, steps_at, replies_at):
    """The program, then every step in its namespace: "x" executed, "v" evaluated, "t" the end.

    All that runs a step is bound before the program has a chance to replace it.
    """
    from json import dumps

    read, write, size, run, build = exactly, os.write, sized, exec, compile
    value_of, encode, untraced = eval, encoded, sys.settrace
    status, namespace = execute(code, "solution")
    if status:
        return status
    write(replies_at, size(b"ready"))
    while True:
        step = read(steps_at, int.from_bytes(read(steps_at, 8), "little")).decode()
        kind, text = step[0], step[1:]
        untraced(None)
        answer = '"done"'
        try:
            if kind == "x":
                run(build(text, "<test>", "exec"), namespace)
            elif kind == "v":
                answer = dumps(encode(value_of(build(text, "<test>", "eval"), namespace)))
        except BaseException:
            return 1
        data = size((text if kind == "t" else answer).encode())
        while data:
            data = data[write(replies_at, data) :]
        if kind == "t":
            return 0


def execute(code, name):
    """(exit status, namespace) of running a text as a module."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    namespace = module.__dict__
    try:
        exec(compile(code, f"<{name}>", "exec"), namespace)
    except SystemExit as error:
        is_success = error.code in (None, 0) and name == "__main__"
        return (0 if is_success else 1), namespace
    except BaseException:
        return 1, namespace
    return 0, namespace


def enter(source, target, config):
    """Standard streams of the child; nothing of the supervisor stays open below descriptor 40."""
    os.dup2(source, 0)
    os.dup2(target, 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.closerange(3, 40)
    if config["mode"] != "assert":
        os.closerange(40, 64)
    os.setsid()
    cpu = int(config["time_limit_s"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["solution.py"]
    for name in ("config", "frame"):
        globals().pop(name, None)


def flush_and_exit(status):
    try:
        sys.stdout.flush()
    except BaseException:
        status = 1
    os._exit(status)


def exactly(fd, size, read=os.read, at_end=sys.exit):
    data = bytearray()
    while len(data) < size:
        chunk = read(fd, min(size - len(data), 1 << 20))
        if not chunk:
            at_end(3)
        data += chunk
    return bytes(data)


def sized(data):
    return len(data).to_bytes(8, "little") + data
