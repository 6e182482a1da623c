"""Programs against the sandbox: harm, escape, and tests that they try to answer for."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.program_probes import programs_row
from nsr_fast.reward import Verdict
from nsr_fast.reward.code import sandbox, verify_code
from nsr_fast.reward.code.sandbox import BACKENDS, Limits, backend_problems, run_program
from nsr_fast.reward.code.steps import steps_of
from tests.reward.code.test_code import ADD, QUICK, SUM, fenced, isolated

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


@isolated
@pytest.mark.parametrize("program", CHEATS.values(), ids=CHEATS)
def test_a_program_cannot_answer_for_its_tests(program):
    assert verify_code(fenced(program), ADD, limits=QUICK).verdict is Verdict.WRONG


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


@isolated
@pytest.mark.parametrize("backend", BACKENDS)
def test_harm_to_the_supervisor_is_the_programs_own(backend):
    if problem := backend_problems()[backend]:
        pytest.skip(f"{backend}: {problem}")
    for harm in ("os.kill(os.getppid(), 9)", "os.kill(-1, 9)", "os.kill(os.getppid(), 19)"):
        limits = Limits(time_limit_s=0.5)
        score = verify_code(fenced(f"import os\n{harm}"), SUM[:1], limits=limits, backend=backend)
        assert score.verdict is Verdict.WRONG, harm


@isolated
def test_the_memory_of_all_processes_is_bounded():
    program = (
        "import os, time\nfor _ in range(8):\n"
        "    if os.fork() == 0:\n        data = b'x' * (48 << 20)\n        time.sleep(60)\n"
        "time.sleep(60)"
    )
    limits = Limits(time_limit_s=20.0, memory_mb=100)
    assert verify_code(fenced(program), SUM, limits=limits).reason == "too_much_memory"


@isolated
def test_the_program_ends_with_the_process_that_scores_it():
    code = (
        "from nsr_fast.reward.code.sandbox import Limits, run_program\n"
        "program = 'import time; time.sleep(77)'\n"
        "run_program(program, inputs=('',), limits=Limits(time_limit_s=77.0))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 30
    while not (pids := sandboxed()) and time.monotonic() < end:
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    assert pids
    while sandboxed() and time.monotonic() < end:
        time.sleep(0.1)
    assert not sandboxed()


def sandboxed():
    """Processes whose user is one of the sandbox's."""
    pids = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if 200_000 <= folder.stat().st_uid < 600_000:
                    pids.add(folder.name)
    return pids


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


def test_expected_values_stay_outside():
    check = "def check(candidate):\n    assert candidate(2) == 4711\n"
    tests = ["assert f(1) == 4712\nassert f(3) in (4713, [4714])", check, "check(f)", "x = 5"]
    steps = [step for step in steps_of(tests) if "def check" not in step.text]
    assert [(s.text, s.is_value) for s in steps] == [
        ("f(1)", True),
        ("f(3)", True),
        ("f(2)", True),
        ("x = 5", False),
    ]
    assert steps[0].passes(["i", "1268"]) and not steps[0].passes(["i", "1"])
    for reply in ("done", None, ["i", "zz"], ["o", True], [], {"a": 1}, ["l", [["o", 1]]]):
        assert not steps[0].passes(reply)
    assert steps[3].passes("done") and not steps[3].passes(["i", "1"])


def test_a_sandbox_outside_the_system_path_is_found(monkeypatch, tmp_path):
    script = tmp_path / "bwrap"
    script.write_text("#!/bin/sh\necho no such option >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert sandbox._problem("bwrap") == "no such option"


@isolated
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_sandbox_shows_neither_files_nor_root_nor_network(backend, tmp_path):
    if problem := backend_problems()[backend]:
        pytest.skip(f"{backend}: {problem}")
    secret = tmp_path / "secret"
    secret.write_text("42")
    project = str(Path.cwd() / "pyproject.toml")
    program = (
        "import os, socket\n"
        f"print(os.path.exists({str(secret)!r}), os.path.exists({project!r}))\n"
        "print(len([n for n in os.listdir('/proc') if n.isdigit()]) < 6)\n"
        "print([name for _, name in socket.if_nameindex() if name != 'lo'])\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print([int(line.split()[1], 16) for line in lines if line.startswith('CapEff')])\n"
        "try:\n    open('/usr/made', 'w')\nexcept OSError:\n    print('read-only')\n"
        "print('SECRET' in os.environ)\n"
    )
    os.environ["SECRET"] = "1"
    report = run_program(program, inputs=("",), backend=backend)
    del os.environ["SECRET"]
    assert report["results"] == [
        {"status": "ok", "output": "False False\nTrue\n[]\n[0]\nread-only\nFalse\n"}
    ]


@isolated
def test_nothing_is_left_running():
    program = (
        "import os, time\nfor _ in range(5):\n"
        "    if os.fork() == 0:\n        os.setsid()\n        time.sleep(60)\n"
    )
    start = time.monotonic()
    assert verify_code(fenced(program), SUM, limits=QUICK).verdict is Verdict.WRONG
    assert time.monotonic() - start < 30
    time.sleep(0.2)
    assert not sandboxed()
