"""Hidden tests of a programming problem in one form, from the layouts that code data sets use.

    ["assert f(1) == 2", ...]                        statements about the program (MBPP, KodCode)
    [{"input": "1\\n", "output": "2\\n"}, ...]         standard input and output
    {"inputs": [...], "outputs": [...]}              the same (APPS, TACO, verl, PRIME)
    {"inputs": [[1], ...], "outputs": [2, ...], "fn_name": "f"}     calls
    {"inputs": ["1\\n[2]", ...], "outputs": ["3", ...], "fn_name": "f"}    calls, an argument a line
    [{"input", "output", "testtype": "functional", "metadata": {"func_name": "f"}}]  LiveCodeBench
    {"test": "def check(candidate): ...", "entry_point": "f"}       HumanEval
    {"test_list": [...], "test_setup_code": "..."}   MBPP

A JSON text of any of them is read as well.
"""

import ast
import builtins
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from nsr_fast.reward.code.names import (
    USUAL,
    asked_names,
    imported_modules,
    parsed,
    program_modules,
    shared_out,
    uncalled_tests,
)
from nsr_fast.reward.verdict import without_bad_golds

_NAME_KEYS = ("fn_name", "func_name", "function_name", "entry_point")
_BUILTINS = frozenset(dir(builtins))


class EmptyOutputError(ValueError):
    """An expected output without any token: a program that does nothing would pass."""


@dataclass(frozen=True, slots=True)
class Call:
    """Arguments, named ones, and what they are expected to return."""

    arguments: tuple
    keywords: dict
    expected: object


@dataclass(frozen=True, slots=True)
class CodeTests:
    """Inputs with their outputs, statements that raise when the program is wrong, or calls.

    name            the function under test, where the tests say it
    may_be_wrapped  every expected value is a list of one, which APPS puts around returned values
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    name: str | None = None
    may_be_wrapped: bool = False

    def asked(self) -> frozenset[str]:
        """Names that the tests ask of the program; the usual ones only if there are no others."""
        names = asked_names(self.statements, self.name)
        own = {name for name in names if name not in USUAL and name not in _BUILTINS}
        own |= {self.name} if self.name else set()
        return frozenset(own or names)

    def message(self, program: str) -> dict | None:
        """What inside_tests.py:run_tests takes; None for tests of standard output."""
        if self.inputs:
            return None
        names, prelude = shared_out(asked_names(self.statements, self.name), program, self.name)
        calls = [
            {"arguments": call.arguments, "keywords": call.keywords, "expected": call.expected}
            for call in self.calls
        ]
        return {
            "statements": self.statements,
            "calls": calls,
            "fn_name": self.name,
            "may_be_wrapped": self.may_be_wrapped,
            "names": sorted(names),
            "prelude": prelude,
            "uncalled": uncalled_tests(self.statements),
            "modules": sorted(program_modules(self.statements)),
        }


def read_tests(tests: object) -> CodeTests:
    """The tests of a row's column `tests`; ValueError when they are empty or of no known form."""
    if isinstance(tests, str) and tests.lstrip().startswith(("[", "{")):
        tests = _from_json(tests)
    tests = _plain(tests)
    if isinstance(tests, str) and ("assert" in tests or "unittest" in tests):
        return CodeTests(statements=(tests,))
    if isinstance(tests, list) and tests:
        if all(isinstance(test, str) for test in tests):
            return CodeTests(statements=tuple(tests))
        if all(isinstance(test, dict) and {"input", "output"} <= set(test) for test in tests):
            return _listed_tests(tests)
    if isinstance(tests, dict):
        return _mapped_tests(tests)
    raise ValueError(
        "tests: expected a list of assert statements, of {input, output}, or {inputs, outputs}, "
        f"got {type(tests).__name__} {str(tests)[:60]!r}"
    )


def tests_of(row: Mapping) -> object:
    """What a row gives as tests: its column `tests`, the columns of known data sets, its answer."""
    if row.get("tests") is not None:
        name = _name_in(row.get("metadata"))
        is_named = name and isinstance(row["tests"], str | list)
        return {"tests": row["tests"], "fn_name": name} if is_named else row["tests"]
    if isinstance(row.get("test"), str) and row.get("entry_point"):
        return {"test": row["test"], "entry_point": row["entry_point"]}
    if row.get("test_list") is not None:
        return {key: row[key] for key in ("test_list", "test_setup_code") if row.get(key)}
    if row.get("input_output") is not None:
        return row["input_output"]
    return row.get("answer")


def rows_with_tests(rows: Sequence[dict], *, drop_bad_golds: bool = False) -> list[dict]:
    """The rows whose tests can be read; bad ones raise InputError with their ids, or are dropped.

    Nothing is run.
    """
    problems = [_problem(tests_of(row)) for row in rows]
    bad = [row for row, problem in zip(rows, problems) if problem == "unreadable"]
    imports = [row for row, problem in zip(rows, problems) if problem == "imports"]
    empty = [row for row, problem in zip(rows, problems) if problem == "empty"]
    kept = without_bad_golds(rows, bad, "tests cannot be read", drop_bad_golds=drop_bad_golds)
    kept = without_bad_golds(
        kept, imports, "tests import what programs cannot", drop_bad_golds=drop_bad_golds
    )
    what = "tests expect an empty output, which a program that does nothing prints"
    return without_bad_golds(kept, empty, what, drop_bad_golds=drop_bad_golds)


def _problem(tests: object) -> str | None:
    try:
        found = read_tests(tests)
        for statement in found.statements:
            ast.parse(statement)
        if imported_modules(found.statements) - program_modules(found.statements):
            return "imports"
    except EmptyOutputError:
        return "empty"
    except (ValueError, SyntaxError, TypeError, RecursionError):  # ValueError: broken JSON too
        return "unreadable"
    return None


def _listed_tests(tests: list[dict]) -> CodeTests:
    """[{input, output}, ...], of calls when they say so."""
    names = {_name_in(test) or _name_in(test.get("metadata")) for test in tests}
    kinds = {str(test.get("testtype") or test.get("type") or "stdin") for test in tests}
    inputs, outputs = [t["input"] for t in tests], [t["output"] for t in tests]
    if kinds & {"functional", "function_call"}:
        return _call_tests(inputs, outputs, names.pop() if len(names) == 1 else None)
    return _input_tests(inputs, outputs)


def _mapped_tests(tests: dict) -> CodeTests:
    name = _name_in(tests)
    if isinstance(tests.get("test"), str) and name:
        is_called = "check" not in (tree.id for tree in _top_calls(tests["test"]))
        check = (f"check({name})",) if is_called and "def check" in tests["test"] else ()
        return CodeTests(statements=(tests["test"], *check), name=name)
    for key in ("test_list", "assert_case", "functional"):
        if tests.get(key):
            texts = tests[key] if isinstance(tests[key], list) else [tests[key]]
            setup = [tests["test_setup_code"]] if tests.get("test_setup_code") else []
            return read_tests([*setup, *texts])
    if "tests" in tests:
        inner = tests["tests"]
        listed = _from_json(inner) if isinstance(inner, str) else inner
        if isinstance(listed, list) and all(isinstance(test, dict) for test in listed):
            return read_tests([{"func_name": name, **test} for test in listed])
        return read_tests(inner)
    inputs, outputs = tests.get("inputs"), tests.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise ValueError(f"tests: expected inputs and outputs, got the keys {sorted(tests)}")
    return _call_tests(inputs, outputs, name) if name else _input_tests(inputs, outputs)


def _top_calls(text: str) -> list[ast.Name]:
    """The functions that a text calls as statements of their own."""
    tree = parsed(text)
    calls = [n.value for n in tree.body if isinstance(n, ast.Expr)] if tree else []
    calls = [call.func for call in calls if isinstance(call, ast.Call)]
    return [function for function in calls if isinstance(function, ast.Name)]


def _input_tests(inputs: list, outputs: list) -> CodeTests:
    if len(inputs) != len(outputs) or not inputs:
        raise ValueError(f"tests: expected as many outputs as inputs, got {len(outputs)}")
    texts = tuple(map(_as_text, outputs))
    if not all(text.strip() for text in texts):
        raise EmptyOutputError("tests: expected an output with some text, got an empty one")
    return CodeTests(tuple(map(_as_text, inputs)), texts)


def _call_tests(inputs: list, outputs: list, name: str | None) -> CodeTests:
    if not str(name).isidentifier() or name is None or len(inputs) != len(outputs) or not inputs:
        raise ValueError(f"tests: expected a function name and equal numbers, got {name!r}")
    calls = tuple(map(_call, inputs, outputs))
    is_text = any(isinstance(value, str) for value in inputs)
    may_be_wrapped = not is_text and all(
        isinstance(call.expected, list) and len(call.expected) == 1 for call in calls
    )
    return CodeTests(calls=calls, name=name, may_be_wrapped=may_be_wrapped)


def _call(given: object, output: object) -> Call:
    if isinstance(given, str):
        values = [_value(line) for line in given.split("\n") if line.strip()]
        return Call(tuple(values), {}, _value(output) if isinstance(output, str) else output)
    if isinstance(given, dict):
        return Call((), given, output)
    return Call(tuple(given) if isinstance(given, list) else (given,), {}, output)


def _value(text: str) -> object:
    """A JSON text, else a Python literal, else the text itself."""
    try:
        return _from_json(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text


def _from_json(text: str) -> object:
    """json.loads without its limit on the digits of an integer."""
    return json.loads(text, parse_int=lambda digits: int(Decimal(digits)))


def _plain(value: object) -> object:
    """The same with lists and dicts in place of arrays and mappings, as parquet files have them."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _name_in(about: object) -> str | None:
    """The function's name in a mapping or its JSON text."""
    if isinstance(about, str) and about.lstrip().startswith("{"):
        try:
            about = json.loads(about)
        except ValueError:
            return None
    if not isinstance(about, Mapping):
        return None
    return next((str(about[key]) for key in _NAME_KEYS if about.get(key)), None)


def _as_text(value: object) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
