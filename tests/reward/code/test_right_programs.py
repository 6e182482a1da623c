"""Right programs, and tests as people write them: each is correct, and its wrong twin wrong."""

import logging

import pytest

from nsr_fast.reward import Verdict
from nsr_fast.reward.code import CodeReward, sandbox, verify_code
from nsr_fast.reward.code.sandbox import Limits
from tests.reward.code.test_code import fenced, isolated

pytestmark = isolated
LIMITS = Limits(time_limit_s=5.0)


def verdict(program, tests):
    return verify_code(fenced(program), tests, limits=LIMITS).verdict


DOUBLE = "def double(x):\n    if x < 0:\n        raise ValueError('negative')\n    return 2 * x"
CASE = "import unittest\nclass Cases(unittest.TestCase):\n    def test_it(self):\n        "

FORMS = {
    "loop": "for x in range(3):\n    assert double(x) == 2 * x",
    "variables": "given, wanted = [1, 2], [2, 4]\nassert [double(x) for x in given] == wanted",
    "function": "def test_double():\n    assert double(4) == 8\ntest_double()",
    "uncalled": "def test_double():\n    assert double(4) == 8",
    "nested": "def near(a, b):\n    return abs(a - b) < 1e-6\nassert near(double(4.0), 8)",
    "import": "from solution import double as twice\nassert twice(4) == 8",
    "module": "import my_solution\nassert my_solution.double(4) == 8",
    "isclose": "import math\nassert math.isclose(double(0.1), 0.2)",
    "isclose by itself": "assert isclose(double(0.1), 0.2)",
    "all": "assert all(double(x) == x + x for x in range(5)) and not any(map(double, [0]))",
    "lambda": "assert list(map(lambda x: double(x), [1, 2])) == [2, 4]",
    "case": CASE + "self.assertEqual(double(4), 8)",
    "case with main": CASE + "self.assertEqual(double(4), 8)\nunittest.main()",
    "guarded main": CASE
    + "self.assertEqual(double(4), 8)\nif __name__ == '__main__':\n    unittest.main()",
    "raises": CASE + "self.assertEqual(double(4), 8)\n"
    "        with self.assertRaises(ValueError) as caught:\n            double(-1)\n"
    "        self.assertEqual(str(caught.exception), 'negative')",
    "except": "assert double(4) == 8\ntry:\n    double(-1)\n    assert False\n"
    "except ValueError as error:\n    assert error.args == ('negative',)",
    "setup": CASE.partition("    def")[0] + "    def setUp(self):\n        self.wanted = 8\n"
    "    def test_it(self):\n        self.assertEqual(double(4), self.wanted)",
}


@pytest.mark.parametrize("test", FORMS.values(), ids=FORMS)
def test_every_form_of_test_can_pass_and_fail(test):
    assert verdict(DOUBLE, [test]) is Verdict.CORRECT
    wrong = DOUBLE.replace("2 * x", "2 * x + 1")
    assert verdict(wrong, [test]) is Verdict.WRONG


STACK = (
    "class Stack:\n    def __init__(self, items=()):\n        self.items = list(items)\n"
    "    def push(self, item):\n        self.items.append(item)\n"
    "    def pop(self):\n        return self.items.pop()\n"
    "    def __len__(self):\n        return len(self.items)\n"
    "    @property\n    def top(self):\n        return self.items[-1]\n"
    "    @classmethod\n    def of(cls, *items):\n        return cls(items)\n"
)
VECTOR = (
    "class Vector:\n    def __init__(self, x, y):\n        self.x, self.y = x, y\n"
    "    def __add__(self, other):\n        return Vector(self.x + other.x, self.y + other.y)\n"
    "    def __mul__(self, k):\n        return Vector(self.x * k, self.y * k)\n"
    "    __rmul__ = __mul__\n"
    "    def __eq__(self, other):\n"
    "        return isinstance(other, Vector) and (self.x, self.y) == (other.x, other.y)\n"
    "    def __lt__(self, other):\n        return self.x < other.x\n"
    "    def __abs__(self):\n        return (self.x**2 + self.y**2) ** 0.5\n"
    "    def __repr__(self):\n        return f'Vector({self.x}, {self.y})'\n"
)
ERROR = (
    "class Bad(ValueError):\n    def __init__(self, code):\n"
    "        super().__init__(f'bad {code}')\n"
    "        self.code = code\ndef f(x):\n    raise Bad(x)"
)
NODE = "class Node:\n    def __init__(self, v, n=None): self.v = v; self.n = n\n"
REVERSE = (
    "def reverse(h):\n    p = None\n    while h is not None:\n        h.n, p, h = p, h, h.n\n"
    "    return p\n"
)
WALK = "h = reverse(Node(1, Node(2)))\nassert h.v == 2 and h.n.v == 1 and h.n.n is None"
PRINTS = (
    "import io, contextlib\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n    f(3)\n"
    "assert out.getvalue() == 'hi 3\\n'"
)
RETRY = (
    "calls = []\ndef flaky():\n    calls.append(1)\n    if len(calls) < 3:\n"
    "        raise ValueError\n    return 5\nassert f(flaky) == 5 and len(calls) == 3"
)
KINDS = "({(1, 2): [3]}, {1}, frozenset([1]), b'a', range(3), 1 + 2j, None, 10**30)"

OBJECTS = {
    "methods": (STACK, "s = Stack()\ns.push(1)\ns.push(2)\nassert len(s) == 2 and s.pop() == 2"),
    "attributes": (STACK, "s = Stack.of(1, 2)\nassert s.items == [1, 2] and s.top == 2"),
    "set": (STACK, "s = Stack()\ns.items = [7]\nassert s.top == 7 and isinstance(s, Stack)"),
    "error": (STACK, "try:\n    Stack().pop()\n    assert False\nexcept IndexError:\n    pass"),
    "equal": (VECTOR, "assert Vector(1, 2) + Vector(3, 4) == Vector(4, 6) != Vector(1, 1)"),
    "scaled": (VECTOR, "assert 2 * Vector(1, 2) == Vector(1, 2) * 2 == Vector(2, 4)"),
    "text": (VECTOR, "assert repr(Vector(1, 2)) == 'Vector(1, 2)' and abs(Vector(3, 4)) == 5"),
    "sorted": (VECTOR, "assert [v.x for v in sorted([Vector(2, 0), Vector(1, 0)])] == [1, 2]"),
    "own error": (
        ERROR,
        "try:\n    f(3)\n    assert 0\n"
        "except Bad as e:\n    assert e.code == 3 and str(e) == 'bad 3'",
    ),
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(): return P(1)",
        "assert f() == P(1) and f().x == 1 and f() != P(2)",
    ),
    "enum": (
        "from enum import Enum\nclass Color(Enum):\n    RED = 1\ndef f(): return Color.RED",
        "assert f() == Color.RED and f() is Color.RED and f().value == 1",
    ),
    "own nodes": (NODE + REVERSE, WALK),
    "nodes of the test": (REVERSE, NODE + WALK),
    "in place": ("def f(a): a.sort()", "a = [2, 1]\nf(a)\nassert a == [1, 2]"),
    "grid": (
        "def f(g):\n    for row in g: row.reverse()",
        "g = [[1, 2], [3, 4]]\nrow = g[0]\nf(g)\nassert g == [[2, 1], [4, 3]] and row == [2, 1]",
    ),
    "dict": ("def f(d): d['k'] = 1", "d = {}\nf(d)\nassert d == {'k': 1}"),
    "same": ("def f(a): return a", "a = [1]\nassert f(a) is a"),
    "callback": (
        "def f(g, xs): return [g(x) for x in xs]",
        "assert f(lambda x: x + 1, [1]) == [2] and f(str, [1]) == ['1']",
    ),
    "closure": ("def f(n): return lambda x: x + n", "assert f(2)(3) == 5"),
    "failing callback": (
        "def f(g):\n    for _ in range(5):\n        try: return g()\n"
        "        except ValueError: pass",
        RETRY,
    ),
    "generator": (
        "def f(n):\n    for i in range(n): yield i",
        "g = f(2)\nassert next(g) == 0 and list(g) == [1] and sum(f(4)) == 6",
    ),
    "coroutine": (
        "import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x",
        "import asyncio\nassert asyncio.run(f(2)) == 2",
    ),
    "printed": ("def f(x): print('hi', x)", PRINTS),
    "constants": ("LIMIT = 3\nTABLE = {1: 2}\ndef f(): return LIMIT", "assert f() == LIMIT == 3"),
    "kinds": (f"def f(): return {KINDS}", f"assert f() == {KINDS}"),
    "collections": (
        "from collections import Counter, deque\ndef f(t): return Counter(t), deque(t)",
        "c, d = f('aab')\nd.popleft()\nassert c.most_common(1) == [('a', 2)] and len(d) == 2",
    ),
    "date": (
        "import datetime\ndef f(): return datetime.date(2020, 1, 2)",
        "import datetime\nassert f() == datetime.date(2020, 1, 2) and f().year == 2020",
    ),
    "named like a builtin": ("def sum(a, b): return a + b", "assert sum(1, 2) == 3"),
    "named like an import": ("def gcd(a, b): return 7", "import math\nassert gcd(1, 2) == 7"),
    "imported": ("from math import factorial", "assert factorial(5) == 120"),
    "dict of its own": (
        "class Cache(dict):\n    def put(self, k, v): self[k] = v",
        "c = Cache()\nc.put(1, 2)\nassert c[1] == 2 and 1 in c and len(c) == 1",
    ),
    "context": (
        "class On:\n    on = False\n    def __enter__(self):\n        self.on = True\n"
        "        return self\n    def __exit__(self, *error): self.on = False",
        "c = On()\nwith c as d:\n    assert d.on\nassert not c.on",
    ),
    "depth": ("def f(n): return n and 1 + f(n - 1)", "assert f(5000) == 5000"),
    "keywords": ("def f(x, *, y=2, **k): return x + y + k['z']", "assert f(1, y=3, z=4) == 8"),
}


@pytest.mark.parametrize(("program", "test"), OBJECTS.values(), ids=OBJECTS)
def test_whatever_a_program_defines_can_be_tested(program, test):
    assert verdict(program, [test]) is Verdict.CORRECT
    assert verdict(program, [f"{test}\nassert False"]) is Verdict.WRONG


IDIOMS = {
    "exit": "print(input())\nexit()",
    "quit": "print(input())\nquit(0)",
    "closed": "import sys\nsys.stdout.write(input())\nsys.stdout.close()",
    "thread": "import threading\nthreading.Thread(target=lambda: print(input())).start()",
    "atexit": "import atexit, io, os, sys\nsys.stdout = io.StringIO()\n"
    "atexit.register(lambda: os.write(1, sys.stdout.getvalue().encode()))\nprint(input())",
    "devices": "import sys\nsys.stdin = open('/dev/stdin')\n"
    "print(input(), file=open('/dev/stdout', 'w'))",
    "zero": "print(open(0).read())",
    "os.read": "import os\nprint(os.read(0, 99).decode())",
    "prelude": "q: List[int] = []\nheappush(q, int(input()))\nprint(heapq.heappop(q))",
    "own prelude": "def count(x): return x\ndeque = count\nprint(deque(input()))",
    "numpy": "import numpy as np\nprint(np.array([int(input())]).sum())",
    "digits": "n = 3**20000\nprint(input() if len(str(n)) == 9543 else 0)",
    "decimal": "print(float(input()))",
    "recursion": "def f(n): return n and 1 + f(n - 1)\nprint(f(int(input()) * 700) // 700)",
}


@pytest.mark.parametrize("program", IDIOMS.values(), ids=IDIOMS)
def test_idioms_of_programs_that_print(program, backend):
    tests = [{"input": "42\r\n", "output": "42  \r\n\r\n"}]
    score = verify_code(fenced(program), tests, limits=LIMITS, backend=backend)
    assert score.verdict is Verdict.CORRECT


def test_long_input_and_output():
    program = (
        "n = int(input())\nxs = [int(input()) for _ in range(n)]\nfor x in xs: print(x, x * x)"
    )
    num = 100_000
    given = "\n".join(map(str, [num, *range(num)]))
    wanted = [f"{i} {i * i}" for i in range(num)]
    assert verdict(program, [{"input": given, "output": "\n".join(wanted)}]) is Verdict.CORRECT
    wanted[-1] = "0 0"
    assert verdict(program, [{"input": given, "output": "\n".join(wanted)}]) is Verdict.WRONG


def call(name, inputs, outputs):
    return {"fn_name": name, "inputs": inputs, "outputs": outputs}


NUM = 10**30 + 1
CALLS = {
    "objects": ("def f(a, b): return a + b", call("f", [[1, 2], [3, 4]], [3, 7])),
    "wrapped": ("def f(a, b): return [a, b]", call("f", [[1, 2]], [[[1, 2]]])),
    "text": ("def f(a, b): return a + [b]", call("f", ["[1]\n2", "[]\n3"], ["[1, 2]", "[3]"])),
    "literals": ("def f(a): return not a", call("f", ["true", "False"], ["false", "True"])),
    "plain text": ("def f(a): return a[::-1]", call("f", ["ab"], ["ba"])),
    "tuples": ("def f(n): return [(n, n)], ", call("f", [[1], [2]], [[[[1, 1]]], [[[2, 2]]]])),
    "near": ("def f(): return [0.1 + 0.2]", call("f", [[], []], [[0.3], [0.3]])),
    "whole": ("def f(): return 3.0", call("f", [[]], [3])),
    "float wanted": ("def f(): return 3", call("f", [[]], [3.0])),
    "big": ("def f(): return 10**30 + 1", call("f", [[], []], [NUM, NUM])),
    "keys": ("def f(d): return {1: d['a']}", call("f", [[{"a": 2}]], [{"1": 2}])),
    "named": ("def f(a, b): return a - b", call("f", [{"b": 1, "a": 3}], [2])),
    "array": ("import numpy as np\ndef f(a): return np.array(a) * 2", call("f", [[[1]]], [[2]])),
    "none": ("def f(): return None", call("f", [[], []], [None, None])),
    "solution": (
        "class Solution:\n    def f(self, a: List[int]) -> Optional[int]:\n        return max(a)",
        call("f", [[[1, 2]], [[3]]], [2, 3]),
    ),
    "functional": (
        "def f(a): return a[::-1]",
        [
            {"input": '"ab"', "output": '"ba"', "testtype": "functional"}
            | {"metadata": '{"func_name": "f"}'}
        ],
    ),
    "function_call": (
        "def f(a, b): return a + b",
        [{"type": "function_call", "fn_name": "f", "input": [1, 2], "output": 3}],
    ),
    "mbpp": (
        "def f(a): return a",
        {"test_list": ["assert f(1) == ONE"], "test_setup_code": "ONE = 1"},
    ),
    "humaneval": (
        "def f(a): return a",
        {"test": "def check(candidate):\n    assert candidate(1) == 1", "entry_point": "f"},
    ),
}


@pytest.mark.parametrize(("program", "tests"), CALLS.values(), ids=CALLS)
def test_layouts_of_calls(program, tests):
    assert verdict(program, tests) is Verdict.CORRECT
    assert verdict("def f(*a, **k): return 'no'", tests) is Verdict.WRONG


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def f(): return 1e30", call("f", [[]], [NUM])),
        ("def f(): return 0.31", call("f", [[]], [0.3])),
        ("def f(): return [1, 2]", call("f", [[]], [[1, 2, 3]])),
        ("def f(): return 1", call("f", [[], []], [[1], [2]])),
        ("def f(): return '1'", call("f", [[]], [1])),
        ("def f(): return {1, 2}", call("f", [[]], [[1, 2]])),
        ("def f(): return (1, 2)", ["assert f() == [1, 2]"]),
        ("def f(): return 0.1 + 0.2", ["assert f() == 0.3"]),
    ],
)
def test_values_that_differ(program, tests):
    assert verdict(program, tests) is Verdict.WRONG


def test_a_package_that_programs_cannot_import_is_noted(monkeypatch, caplog):
    monkeypatch.setattr("nsr_fast.reward.code.reward.package_problem", lambda b: "numpy cannot")
    with caplog.at_level(logging.WARNING):
        CodeReward(num_workers=1)
    assert "numpy cannot" in caplog.text
    assert sandbox.package_problem(sandbox.chosen_backend()) is None
