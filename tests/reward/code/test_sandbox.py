"""Programs against the sandbox: harm, escape, and tests that they try to answer for."""

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.program_probes import programs_row
from nsr_fast.reward import Verdict
from nsr_fast.reward.code import sandbox, verify_code
from nsr_fast.reward.code.sandbox import Limits, run_program
from tests.reward.code.test_code import ADD, QUICK, SUM, fake_bwrap, fenced, isolated

PREFIX = Path(sys.base_prefix).resolve()

CHEATS = {
    "equal to everything": "class A(int):\n    def __eq__(self, other): return True\n"
    "    def __hash__(self): return 1\ndef add(a, b): return A(7)",
    "builtins": "import builtins\nbuiltins.exec = builtins.compile = lambda *a: None\n"
    "builtins.eval = lambda *a: 3",
    "json": "import json\nread = json.loads\n"
    "json.loads = lambda text: {**read(text), 'tests': [], 'steps': []}\n"
    "def add(a, b): return 9",
    "os": "import os\nos.read = lambda fd, n: b''\nos.write = lambda fd, data: len(data)\n"
    "def add(a, b): return 9",
    "launcher": "import __main__\n__main__.execute = lambda *a: (0, {})\n"
    "__main__.exactly = None\ndef add(a, b): return 9",
    "protocol": "import os\nsend = lambda t: os.write(41, len(t).to_bytes(8, 'little') + t)\n"
    "send(b'ready')\nwhile True:\n"
    "    text = os.read(40, int.from_bytes(os.read(40, 8), 'little'))\n"
    "    send(text[1:] if text[:1] == b't' else b'[\"i\", \"7\"]')",
    "frames": "import sys\nframe = sys._getframe()\nwhile frame:\n"
    "    for value in frame.f_locals.values():\n"
    "        if isinstance(value, dict) and 'tests' in value: value['tests'] = []\n"
    "    frame = frame.f_back\ndef add(a, b): return 9",
}


@pytest.mark.parametrize("program", CHEATS.values(), ids=CHEATS)
def test_a_program_cannot_answer_for_its_tests(program, backend):
    score = verify_code(fenced(program), ADD, limits=QUICK, backend=backend)
    assert score.verdict is Verdict.WRONG


@isolated
@pytest.mark.parametrize(
    "program",
    [
        "import sys\ndef trace(frame, event, arg):\n    frame.f_lineno = 99\n    return trace\n"
        "sys.settrace(trace)\ndef add(a, b): return 9",
        "import builtins\nbuiltins.AssertionError = KeyError\ndef add(a, b): return 9",
        "import builtins\nbuiltins.exec = lambda *a: None\ndef add(a, b): return 9",
    ],
    ids=["trace", "AssertionError", "exec"],
)
def test_statements_are_executed_as_they_stand(program):
    tests = ["total = add(1, 2)\nassert abs(total - 3) < 1e-9"]
    assert verify_code(fenced(program), tests, limits=QUICK).verdict is Verdict.WRONG


def test_harm_to_the_supervisor_is_the_programs_own(backend):
    for harm in ("os.kill(os.getppid(), 9)", "os.kill(-1, 9)", "os.kill(os.getppid(), 19)"):
        limits = Limits(time_limit_s=0.5)
        score = verify_code(fenced(f"import os\n{harm}"), SUM[:1], limits=limits, backend=backend)
        assert score.verdict is Verdict.WRONG, harm


def test_the_memory_of_all_processes_is_bounded(backend):
    program = (
        "import os, time\nfor _ in range(8):\n"
        "    if os.fork() == 0:\n        data = b'x' * (48 << 20)\n        time.sleep(60)\n"
        "time.sleep(60)"
    )
    limits = Limits(time_limit_s=20.0, memory_mb=100)
    score = verify_code(fenced(program), SUM, limits=limits, backend=backend)
    assert score.reason == "too_much_memory"


def test_the_size_of_a_file_is_bounded(backend):
    program = (
        "import os\ntry:\n    open('/tmp/x', 'wb').write(bytes(3 << 19))\n"
        "except OSError as error:\n    print(error.errno, os.path.getsize('/tmp/x'))\n"
    )
    report = run_program(program, inputs=("",), limits=Limits(file_bytes=1 << 20), backend=backend)
    assert report["results"] == [{"status": "ok", "output": f"{errno.EFBIG} {1 << 20}\n"}]


def named(name, program):
    """A program whose processes show `name` to the host, whatever their user."""
    return f"import ctypes\nctypes.CDLL(None).prctl(15, {name.encode()!r})\n{program}"


def running(name):
    """{process: its user} of the host's processes of this name."""
    users = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if (folder / "comm").read_text() == f"{name}\n":
                    status = (folder / "status").read_text()
                    users[folder.name] = int(status.partition("\nUid:")[2].split()[0])
    return users


def comes_true(condition, deadline_s=30):
    end = time.monotonic() + deadline_s
    while not (is_true := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return is_true


def test_the_program_ends_with_the_process_that_scores_it(backend):
    name = f"end-{os.getpid()}"
    code = (
        "from nsr_fast.reward.code.sandbox import Limits, run_program\n"
        f"program = {named(name, 'import time; time.sleep(77)')!r}\n"
        "limits = Limits(time_limit_s=77.0)\n"
        f"run_program(program, inputs=('',), limits=limits, backend={backend!r})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    has_started = comes_true(lambda: running(name))
    parent.kill()
    parent.wait()
    assert has_started
    assert comes_true(lambda: not running(name))


PLAIN = (
    "from collections import Counter, namedtuple\nfrom fractions import Fraction\n"
    "from enum import IntEnum\nclass Level(IntEnum):\n    HIGH = 3\nP = namedtuple('P', 'x y')\n"
    "def f(): return [(1, 'a'), {'k': [1.5, None, True]}, {1, 2}, b'xy', 2j, '\\ud800']\n"
    "def count(text): return Counter(text)\ndef point(): return P(1, 2)\n"
    "def half(): return Fraction(1, 2)\ndef level(): return Level.HIGH\n"
    "def keys(): return {1: 2}.keys()\ndef even(n): return n % 2 == 0\n"
)


@isolated
def test_values_compare_as_they_do_in_python():
    tests = [
        "assert f() == [(1, 'a'), {'k': [1.5, None, True]}, {1, 2}, b'xy', 2j, '\\ud800']",
        "assert count('aab') == {'a': 2, 'b': 1}\nassert point() == (1, 2)",
        "assert half() == 0.5\nassert 3 == level()\nassert keys() == {1}",
        "assert even(2)\nassert not even(3)\nassert even(3) is False\nassert even(4) == True",
        "assert sorted(count('ba')) == ['a', 'b'] and point().x == 1",
    ]
    assert verify_code(fenced(PLAIN), tests, limits=QUICK).reason == "equal"
    for test in ("point() == [1, 2]", "half() == '1/2'", "even(2) == 2", "f() == ()", "even(1)"):
        assert verify_code(fenced(PLAIN), [f"assert {test}"], limits=QUICK).reason == "different"


@isolated
def test_programs_of_the_benchmark_get_their_verdicts():
    row = programs_row(30)
    assert row["result"].startswith("30/30 right, 3 hostile, 0 left running")


def test_expected_values_stay_out_of_the_programs_process(backend):
    """The program looks for them in its own objects, in /proc and through every descriptor."""
    program = (
        "import gc, os\n"
        "def f(x):\n"
        "    seen = [repr(o) for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]\n"
        "    for pid in [p for p in os.listdir('/proc') if p.isdigit()]:\n"
        "        for name in ('environ', 'cmdline', 'mem', 'fd/0', 'fd/3', 'fd/5'):\n"
        "            try:\n"
        "                seen.append(repr(open(f'/proc/{pid}/{name}', 'rb').read(1 << 20)))\n"
        "            except (OSError, ValueError):\n"
        "                pass\n"
        "    for fd in range(64):\n"
        "        try:\n"
        "            seen.append(repr(os.pread(fd, 1 << 20, 0)))\n"
        "        except OSError:\n"
        "            pass\n"
        "    marks = [str(4700 + n) for n in (11, 12, 13)]\n"
        "    return [2, len(seen) > 3, [m for m in marks for text in seen if m in text]]\n"
    )
    check = "def check(candidate):\n    assert candidate(2) != 4711\n"
    tests = [check, "check(f)", "assert f(1) != 4712", "assert f(3) == [2, True, []] != 4713"]
    score = verify_code(fenced(program), tests, limits=QUICK, backend=backend)
    assert score.reason == "equal"


def test_a_sandbox_outside_the_system_path_is_found(monkeypatch, tmp_path):
    fake_bwrap(monkeypatch, tmp_path, "echo no such option >&2\nexit 1")
    assert sandbox._problem("bwrap") == "no such option"


@pytest.mark.parametrize("user", [0, 1000])
def test_bubblewrap_is_asked_for_every_wall(monkeypatch, tmp_path, user):
    fake_bwrap(monkeypatch, tmp_path, f"printf '%s\\n' \"$@\" > {tmp_path}/options\nexit 1")
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert "failed" in run_program("print(3)", inputs=("",), backend="bwrap")
    options = (tmp_path / "options").read_text().splitlines()
    options = options[: options.index("--")]

    def values(option):
        return [value for name, value in zip(options, options[1:]) if name == option]

    walls = ["--unshare-all"] if user else [f"--unshare-{n}" for n in ("pid", "net", "ipc", "uts")]
    assert {*walls, "--die-with-parent", "--new-session", "--clearenv"} <= set(options)
    assert "--share-net" not in options
    assert values("--cap-drop") == ["ALL"]
    to_change_user = [] if user else ["CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"]
    assert values("--cap-add") == to_change_user
    packages = {folder for folder in values("--ro-bind") if Path(folder).name[:5] == "numpy"}
    system = {"/usr", "/bin", "/lib", "/lib64", str(PREFIX)}
    assert set(values("--ro-bind")) - packages <= system and len(packages) <= 2
    assert not {"--bind", "--dev-bind", "--bind-try"} & set(options)


def look_around(files, folders, address):
    """A program that prints what it sees of these, of the system and of its own rights."""
    return (
        "import json, os, socket\n"
        "status = open('/proc/self/status').read()\n"
        "found = {\n"
        "    'root': os.listdir('/'), 'tmp': os.listdir('/tmp'),\n"
        f"    'files': [os.path.exists(f) for f in {files!r}],\n"
        f"    'folders': [os.listdir(f) for f in {folders!r}],\n"
        "    'processes': len([n for n in os.listdir('/proc') if n.isdigit()]),\n"
        "    'devices': [name for _, name in socket.if_nameindex() if name != 'lo'],\n"
        "    'capabilities': int(status.partition('CapEff:')[2].split()[0], 16),\n"
        "    'secret': 'SECRET' in os.environ}\n"
        "def works(name, call, *arguments):\n"
        "    try:\n        call(*arguments)\n        found[name] = True\n"
        "    except OSError:\n        found[name] = False\n"
        f"works('answer', socket.create_connection, {address!r}, 2)\n"
        "works('made', open, '/usr/made', 'w')\n"
        "print(json.dumps(found))\n"
    )


def test_the_sandbox_shows_neither_files_nor_root_nor_network(backend, tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("42")
    monkeypatch.setenv("SECRET", "1")
    files = [str(tmp_path / "secret"), str(Path.cwd() / "pyproject.toml")]
    above = [] if PREFIX.is_relative_to("/usr") else PREFIX.parents[:-1]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        socket.create_connection(address).close()  # this host answers
        program = look_around(files, [str(folder) for folder in above], address)
        report = run_program(program, inputs=("",), backend=backend)
    (result,) = report["results"]
    found = json.loads(result["output"])
    system = {"bin", "dev", "lib", "lib64", "packages", "proc", "tmp", "usr"}
    assert set(found.pop("root")) <= system | {PREFIX.parts[1]}
    assert found.pop("processes") < 6
    assert found == {
        "tmp": [],
        "files": [False, False],
        "folders": [[child.name] for child in [PREFIX, *PREFIX.parents][: len(above)]],
        "devices": [],
        "capabilities": 0,
        "secret": False,
        "answer": False,
        "made": False,
    }


def test_nothing_is_left_running(backend):
    name = f"left-{os.getpid()}"
    program = named(
        name,
        "import os, time\nfor _ in range(5):\n"
        "    if os.fork() == 0:\n        os.setsid()\n        time.sleep(60)\n"
        "time.sleep(0.5)\n",
    )
    start = time.monotonic()
    with ThreadPoolExecutor() as threads:
        score = threads.submit(verify_code, fenced(program), SUM[:1], limits=QUICK, backend=backend)
        assert comes_true(lambda: len(running(name)) == 6 or score.done())
        users = running(name)
        assert score.result().verdict is Verdict.WRONG
    assert time.monotonic() - start < 30
    assert len(users) == 6 and 0 not in users.values()
    assert comes_true(lambda: not running(name), 5)
