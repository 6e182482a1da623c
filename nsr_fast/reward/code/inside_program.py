"""What the program's process does inside the sandbox, between its fork and its end.

Follows the text of inside_values.py; for all tests but those of standard output the text of
inside_server.py goes on from here.
"""

import os
import resource
import sys
import types


def execute(code, name, prelude):
    """(exit status, namespace) of running a text as a module; prelude: see import_names."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    namespace = module.__dict__
    import_names(prelude, namespace)
    try:
        exec(compile(code, f"<{name}>", "exec"), namespace)
    except SystemExit as error:
        is_success = error.code in (None, 0) and name == "__main__"
        return (0 if is_success else 1), namespace
    except BaseException:
        return 1, namespace
    return 0, namespace


def import_names(names, namespace):
    """Binds {name: [module, attribute or None]}; what cannot be imported stays unbound."""
    for name, (module, attribute) in names.items():
        try:
            found = __import__(module, fromlist=["*"])
            namespace[name] = getattr(found, attribute) if attribute else found
        except (ImportError, AttributeError):
            continue


def enter(source, target, config):
    """Identity, standard streams and limits of the program's process; nothing else stays open.

    In call mode the channel is on descriptors 40 and 41.
    """
    os.dup2(source, 0)
    os.dup2(target, 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.closerange(3, 40)
    os.closerange(42 if config["mode"] == "calls" else 40, 4096)
    os.setsid()
    if config["uid"]:
        os.setresgid(*[config["uid"]] * 3)
        os.setresuid(*[config["uid"]] * 3)
    cpu = int(config["total_s"] if config["mode"] == "calls" else config["time_limit_s"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["solution.py"]
    prepare_interpreter()
    for name in ("config", "frame", "run_tests"):
        globals().pop(name, None)


def prepare_interpreter():
    """What a plain start of Python has or judges allow: exit and quit, deep recursion, packages."""
    import builtins

    def leave(code=None):
        raise SystemExit(code)

    builtins.exit = builtins.quit = leave
    sys.setrecursionlimit(50_000)
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    if hard == resource.RLIM_INFINITY or hard >= 100 << 20:
        resource.setrlimit(resource.RLIMIT_STACK, (100 << 20, hard))
    sys.path.append("/packages")


def flush_and_exit(status):
    """The end of a program as Python has it: threads, then atexit, then the flush."""
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        if "atexit" in sys.modules:
            sys.modules["atexit"]._run_exitfuncs()
        if not sys.stdout.closed:
            sys.stdout.flush()
    except BaseException:
        status = 1
    os._exit(status)


def exactly(fd, size, read=os.read, at_end=sys.exit):
    """`size` bytes of a descriptor."""
    data = bytearray()
    while len(data) < size:
        chunk = read(fd, min(size - len(data), 1 << 20))
        if not chunk:
            at_end(3)
        data += chunk
    return bytes(data)


def sized_frame(fd):
    return exactly(fd, int.from_bytes(exactly(fd, 8), "little"))


def send_sized(fd, data, write=os.write):
    """Eight bytes of length, then all of data."""
    data = len(data).to_bytes(8, "little") + data
    while data:
        data = data[write(fd, data) :]
