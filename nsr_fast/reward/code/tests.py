"""Hidden tests of a programming problem in one form, from the layouts that code data sets use.

    ["assert f(1) == 2", ...]                        statements after the program
    [{"input": "1\\n", "output": "2\\n"}, ...]         standard input and output
    {"inputs": [...], "outputs": [...]}              the same (APPS, TACO, verl)
    {"inputs": [[1], ...], "outputs": [2, ...], "fn_name": "f"}     calls
    {"test": "def check(candidate): ...", "entry_point": "f"}       HumanEval

A JSON text of any of them is read as well.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nsr_fast.reward.verdict import without_bad_golds

_FENCE = re.compile(r"^[ \t]*```[ \t]*([a-zA-Z0-9+]*)[ \t]*$", re.MULTILINE)
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class CodeTests:
    """Either inputs with their outputs, or statements that raise when the program is wrong."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()


def read_tests(tests: object) -> CodeTests:
    """The tests of a row's column `tests`; ValueError when they are empty or of no known form."""
    if isinstance(tests, str) and tests.lstrip().startswith(("[", "{")):
        tests = json.loads(tests)
    if isinstance(tests, str) and "assert" in tests:
        return CodeTests(statements=(tests,))
    if isinstance(tests, list) and tests:
        if all(isinstance(test, str) for test in tests):
            return CodeTests(statements=tuple(tests))
        if all(isinstance(test, Mapping) and {"input", "output"} <= set(test) for test in tests):
            return _input_tests([t["input"] for t in tests], [t["output"] for t in tests])
    if isinstance(tests, Mapping):
        return _mapped_tests(tests)
    raise ValueError(
        "tests: expected a list of assert statements, of {input, output}, or {inputs, outputs}, "
        f"got {type(tests).__name__} {str(tests)[:60]!r}"
    )


def tests_of(row: Mapping) -> object:
    """What a row gives as tests: its column `tests`, else its answer."""
    return row["tests"] if row.get("tests") is not None else row.get("answer")


def rows_with_tests(rows: Sequence[dict], *, drop_bad_golds: bool = False) -> list[dict]:
    """The rows whose tests can be read; bad ones raise InputError with their ids, or are dropped.

    Nothing is run.
    """
    bad = [row for row in rows if not _is_readable(tests_of(row))]
    return without_bad_golds(rows, bad, "tests cannot be read", drop_bad_golds=drop_bad_golds)


def program_of(completion: str) -> str | None:
    """The last fenced block after the last </think>, a python one before any other, or None."""
    text = completion.rpartition("</think>")[2]
    fences = list(_FENCE.finditer(text))
    blocks: list[tuple[str, str]] = []
    opening = None
    for fence in fences:
        if opening is None:
            opening = fence
        elif not fence.group(1):
            blocks.append((opening.group(1).lower(), text[opening.end() : fence.start()]))
            opening = None
    python = [body for language, body in blocks if language in ("python", "python3", "py")]
    chosen = python or [body for _, body in blocks]
    return chosen[-1].strip("\n") if chosen else None


def outputs_match(output: str, expected: str) -> bool:
    """Equal token by token; tokens of an expected decimal may differ by 1e-6."""
    tokens, wanted = output.split(), expected.split()
    return len(tokens) == len(wanted) and all(map(_tokens_match, tokens, wanted))


def _tokens_match(token: str, wanted: str) -> bool:
    if token == wanted:
        return True
    if not re.fullmatch(r"[+-]?(?:\d+\.\d*|\.\d+|\d+(?:\.\d*)?[eE][+-]?\d+)", wanted):
        return False
    try:
        value, target = float(token), float(wanted)
    except ValueError:
        return False
    return abs(value - target) <= _TOLERANCE * max(1.0, abs(target))


def _is_readable(tests: object) -> bool:
    try:
        for statement in read_tests(tests).statements:
            ast.parse(statement)
    except (ValueError, SyntaxError, RecursionError):  # ValueError: broken JSON too
        return False
    return True


def _input_tests(inputs: list, outputs: list) -> CodeTests:
    if len(inputs) != len(outputs) or not inputs:
        raise ValueError(f"tests: expected as many outputs as inputs, got {len(outputs)}")
    return CodeTests(tuple(map(_as_text, inputs)), tuple(map(_as_text, outputs)))


def _as_text(value: object) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _mapped_tests(tests: Mapping) -> CodeTests:
    if isinstance(tests.get("test"), str) and isinstance(tests.get("entry_point"), str):
        return CodeTests(statements=(tests["test"], f"check({tests['entry_point']})"))
    inputs, outputs = tests.get("inputs"), tests.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise ValueError(f"tests: expected inputs and outputs, got the keys {sorted(tests)}")
    name = tests.get("fn_name")
    if not name:
        return _input_tests(inputs, outputs)
    if not str(name).isidentifier() or len(inputs) != len(outputs) or not inputs:
        raise ValueError(f"tests: expected a function name and equal numbers, got {name!r}")
    find = f"_call = getattr(Solution(), {name!r}) if 'Solution' in globals() else {name}"
    calls = [
        f"assert _call(*{arguments!r}) in ({_returned(output)!r}, {output!r})"
        for arguments, output in zip(inputs, outputs, strict=True)
    ]
    return CodeTests(statements=(find, *calls))


def _returned(output: object) -> object:
    """APPS wraps a returned value in a list of one."""
    return output[0] if isinstance(output, list) and len(output) == 1 else output
