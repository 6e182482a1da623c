"""Programs that try to pass without solving: each is wrong whatever form the test has."""

import pytest

from nsr_fast.reward import Verdict
from nsr_fast.reward.code import verify_code
from nsr_fast.reward.code.sandbox import Limits
from tests.reward.code.test_code import fenced, isolated

pytestmark = isolated
LIMITS = Limits(time_limit_s=2.0)
ANY = """class Any:
    def __init__(self, *values): pass
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __sub__(self, other): return self
    __add__ = __radd__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __getitem__ = __sub__
    def __abs__(self): return 0.0
    __float__ = __abs__
    def __bool__(self): return True
    def __len__(self): return 1
    def __iter__(self): return iter([self])
    def __getattr__(self, name): return self
    def __call__(self, *values, **named): return self
"""
RETURNS = ANY + "def double(x): return Any()"
BOUND = ANY + "double = Any()"
CLASS = ANY + "class double(Any): pass"
CASE = "import unittest\nclass Cases(unittest.TestCase):\n    def test_it(self):\n        "

ALWAYS_EQUAL = {
    "literal": "assert double(4) == 8",
    "loop": "for x in range(3):\n    assert double(x) == 2 * x",
    "pairs": "for x, y in zip([1, 2], [2, 4]):\n    assert y == double(x)",
    "variable": "wanted = 8\nassert double(4) == wanted",
    "and": "assert double(4) == 8 and double(5) == 10",
    "chain": "assert 8 <= double(4) <= 8",
    "not": "assert not double(4) != 8",
    "function": "def test_double():\n    assert double(4) == 8\ntest_double()",
    "uncalled": "def test_double():\n    assert double(4) == 8",
    "raise": "if double(4) != 8:\n    raise ValueError",
    "item": "assert double(4)[0] == 8",
    "attribute": "assert double(4).value == 8",
    "inside": "assert [double(4)] == [8]",
    "key": "assert {8: 1}[double(4)]",
    "in": "assert 8 in double(4)",
    "one of": "assert double(4) in (8, 9)",
    "text": "assert str(double(4)) == '8'",
    "abs": "assert abs(double(4) - 8) < 1e-6",
    "reflected": "assert abs(8 - double(4)) < 1e-6",
    "ratio": "assert abs(double(4) / 8 - 1) < 1e-6",
    "isclose": "import math\nassert math.isclose(double(4), 8)",
    "all": "assert all(double(x) == 2 * x for x in range(3))",
    "any": "assert not any(double(x) != 2 * x for x in range(3))",
    "sum": "assert sum([double(1), double(2)]) == 6",
    "sorted": "assert sorted([double(2), double(1)]) == [2, 4]",
    "isinstance": "assert isinstance(double(4), int) and double(4) == 8",
    "assertEqual": CASE + "self.assertEqual(double(4), 8)",
    "assertAlmostEqual": CASE + "self.assertAlmostEqual(double(4), 8)",
    "assertIn": CASE + "self.assertIn(8, double(4))",
    "main": CASE + "self.assertEqual(double(4), 8)\nunittest.main()",
    "main without exit": CASE + "self.assertEqual(double(4), 8)\nunittest.main(exit=False)",
    "numpy": "import numpy as np\nassert np.allclose(double(4), 8)",
}


@pytest.mark.parametrize("test", ALWAYS_EQUAL.values(), ids=ALWAYS_EQUAL)
def test_an_object_that_equals_everything_is_wrong(test):
    for program in (RETURNS, BOUND, CLASS):
        assert verify_code(fenced(program), [test], limits=LIMITS).verdict is Verdict.WRONG


@pytest.mark.parametrize(
    "test",
    [
        "assert Any(1) == Any(2)",
        "assert Any(1) == 8",
        "assert Any(1) < 8",
        "assert abs(Any(1) - 8) < 1e-6",
        "assert Any(1) * 2 == Any(2) and Any(1) != Any(2)",
    ],
)
def test_a_class_that_equals_everything_is_wrong(test):
    assert verify_code(fenced(ANY), [test], limits=LIMITS).verdict is Verdict.WRONG


CHECK = "def check(candidate):\n    for x in range(4):\n        assert candidate(x) == 2 * x\n"


@pytest.mark.parametrize(
    "tests",
    [
        {"test": CHECK, "entry_point": "double"},
        {"fn_name": "double", "inputs": [[1], [2]], "outputs": [2, 4]},
        {"fn_name": "double", "inputs": [[1], [2]], "outputs": [[2], [4]]},
        {"fn_name": "double", "inputs": ["1", "2"], "outputs": ["2", "4"]},
        {"fn_name": "double", "inputs": [[1], [2]], "outputs": [2.5, 4.5]},
        {"fn_name": "double", "inputs": [[1]], "outputs": [None]},
    ],
)
def test_it_is_wrong_in_every_layout(tests):
    exits = "import os\ndef double(x): os._exit(0)"
    for program in (RETURNS, BOUND, CLASS, exits):
        assert verify_code(fenced(program), tests, limits=LIMITS).verdict is Verdict.WRONG


SCAN = "import os\nfor pid in [p for p in os.listdir('/proc') if p.isdigit()]:\n"
SCAN += "    if int(pid) != os.getpid():\n"
WRITES = "import os\n{define}for fd in range({first}, 4096):\n"
WRITES += "{indent}    for text in (b'passed', b' done 6\\npassedend 0\\n', {reply}):\n"
WRITES += "{indent}        try: os.write(fd, text)\n{indent}        except OSError: pass\n"
REPLY = b'[["v", 8, []], ""]'
REPLY = len(REPLY).to_bytes(8, "little") + REPLY

TRICKS = {
    "patched abs": (
        "import builtins\nbuiltins.abs = abs = lambda x: 0",
        "abs(double(4) - 8) < 1e-9",
    ),
    "patched all": ("import builtins\nbuiltins.all = all = bool", "all([double(4) == 8])"),
    "patched len": (
        "import builtins\nbuiltins.len = len = lambda x: 8",
        "len(double('aaaa')) == 8",
    ),
    "own sorted": ("def sorted(x): return [8]", "sorted([double(4)]) == [8]"),
    "own isclose": ("isclose = lambda *a: True", "isclose(double(4), 8)"),
    "own math": ("import math\nmath.isclose = lambda *a: True", "math.isclose(double(4), 8)"),
    "own module": ("class math:\n    isclose = bool", "math.isclose(double(4), 8)"),
    "patched unittest": (
        "import unittest\nunittest.TestCase.assertEqual = print",
        CASE + "self.assertEqual(double(4), 8)",
    ),
    "own AssertionError": (
        "import builtins\nclass Never(BaseException): pass\n"
        "builtins.AssertionError = AssertionError = Never",
        "double(4) == 8",
    ),
    "trace": (
        "import sys\ndef trace(frame, event, arg):\n    frame.f_trace_lines = False\n"
        "    return trace\nsys.settrace(trace)",
        "double(4) == 8",
    ),
    "mock": ("from unittest.mock import ANY\ndef double(x): return ANY", "double(4) == 8"),
    "mock as function": ("from unittest.mock import MagicMock as double", "double(4) == 8"),
    "exit": ("import sys\ndef double(x): sys.exit(0)", "double(4) == 8"),
    "exit in a case": (
        "def double(x): raise SystemExit(0)",
        CASE + "self.assertEqual(double(4), 8)\nunittest.main()",
    ),
    "skip in a case": (
        "from unittest import SkipTest\ndef double(x): raise SkipTest('later')",
        CASE + "self.assertEqual(double(4), 8)",
    ),
    "caught exit": (
        "import os\ndef double(x): os._exit(0)",
        "try:\n    double(4)\nexcept BaseException:\n    pass",
    ),
    "ended loop": (
        "def double(x): raise StopIteration",
        "for x, y in zip(map(double, [4]), [8]):\n    assert x == y",
    ),
    "ended all": (
        "def double(x): raise StopIteration",
        "assert all(map(lambda x: double(x) == 8, [4]))",
    ),
    "writes at import": (
        WRITES.format(define="", first=0, indent="", reply=REPLY) + "def double(x): return 0",
        "double(4) == 8",
    ),
    "writes in the call": (
        WRITES.format(define="def double(x):\n    ", first=3, indent="    ", reply=b"passed")
        + "    return 0",
        "double(4) == 8",
    ),
    "signals": (
        "def double(x):\n    import os\n"
        + "".join(f"    {line}\n" for line in SCAN.splitlines()[1:])
        + "            for number in (2, 10, 15, 19, 9):\n"
        "                try: os.kill(int(pid), number)\n"
        "                except OSError: pass\n    return 0",
        "try:\n    x = double(4)\nexcept BaseException:\n    x = None\nassert x == 8",
    ),
    "trace of others": (
        SCAN + "        import ctypes\n"
        "        if ctypes.CDLL(None).ptrace(16, int(pid), 0, 0) == 0: CAN = True\n"
        "        try: open(f'/proc/{pid}/mem', 'r+b'); CAN = True\n"
        "        except OSError: pass\n"
        "def double(x): return 8 if 'CAN' in globals() else 0",
        "double(4) == 8",
    ),
    "own end of the channel": (
        "import sys\ndef double(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in frame.f_locals.values():\n"
        "            if hasattr(value, 'on_call'):\n"
        "                value.send([['v', 1, [[0, ['l', []]]]], ''])\n"
        "        frame = frame.f_back\n    return 8",
        "double(4) == 8",
    ),
    "text executed": (
        "def double(x): return '__import__(\"os\")._exit(0)'",
        "double(4) == 8",
    ),
    "not a number": ("def double(x): return float('nan')", "abs(double(4) - 8) < 1e-6"),
    "candidates": ("def double(x):\n    while True: yield 8", "list(double(4)) == [8]"),
}


@pytest.mark.parametrize(("program", "test"), TRICKS.values(), ids=TRICKS)
def test_a_trick_is_wrong(program, test, backend):
    if "def double" not in program and "as double" not in program:
        program += "\ndef double(x): return 'aaaa' if x == 'aaaa' else 0"
    test = test if "\n" in test or test.startswith("assert") else f"assert {test}"
    score = verify_code(fenced(program), [test], limits=LIMITS, backend=backend)
    assert score.verdict is Verdict.WRONG


@pytest.mark.parametrize(
    ("program", "output"),
    [
        ("print('1.0000001')", "1"),
        ("print('100000000000000000000.0')", "100000000000000000001"),
        ("print('010')", "10"),
        ("print('nan')", "0.5"),
        ("print('inf')", "1e400"),
        ("print(*range(99))", "42"),
        ("import os\nos._exit(0)", "42"),
        ("print(42)\nraise ValueError", "42"),
        ("print(42)\nimport time\ntime.sleep(60)", "42"),
        ("import sys\nsys.stdout = None\nprint(42)", "42"),
        ("import atexit\natexit.register(lambda: 1 / 0)\nprint(41)", "42"),
    ],
)
def test_an_output_that_is_not_the_expected_one_is_wrong(program, output):
    tests = [{"input": "1\n", "output": output}]
    assert verify_code(fenced(program), tests, limits=LIMITS).verdict is Verdict.WRONG


def test_all_inputs_share_a_budget(backend):
    program, tests = "import time\ntime.sleep(0.7)\nprint(1)", [{"input": "", "output": "1"}] * 6
    limits = Limits(time_limit_s=2.0, total_s=1.5)
    score = verify_code(fenced(program), tests, limits=limits, backend=backend)
    assert (score.verdict, score.reason) == (Verdict.WRONG, "deadline")
    calls = {"fn_name": "f", "inputs": [[1]] * 6, "outputs": [1] * 6}
    program = "import time\ndef f(x):\n    time.sleep(0.7)\n    return 1"
    assert verify_code(fenced(program), calls, limits=limits, backend=backend).reason == "deadline"
    one_each = Limits(time_limit_s=2.0, total_s=60.0)
    assert verify_code(fenced(program), calls, limits=one_each, backend=backend).reason == "equal"


def test_tests_that_never_ask_the_program_are_unscored():
    score = verify_code(fenced("def f(x): return x"), ["x = 1\nassert x == 1"], limits=LIMITS)
    assert (score.verdict, score.reason) == (Verdict.UNSCORED, "bad_gold")


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def lcm(a, b): return a * b // 2", ["assert gcd(4, 6) == 2", "assert lcm(4, 6) == 12"]),
        ("x = 1", ["assert factorial(5) == 120"]),
        ("x = 1", ["assert add(1, 2) == 3"]),
    ],
)
def test_what_the_program_does_not_define_is_not_lent_to_it(program, tests):
    assert verify_code(fenced(program), tests, limits=LIMITS).verdict is Verdict.WRONG
