"""Exact reward of the Countdown task: reach the target, every given number used exactly once.

A completion is a trace `25-7=18,18*3=54` or one expression `(25-7)*3` (optionally `= 54`). It is
parsed by recursive descent (never eval) and computed with fractions. A trace consumes the numbers
its equations use and puts their results back; at the end only the target may be left.
The text inside the last `<answer>...</answer>`, when there is one, is the completion.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

from nsr_fast.errors import InputError
from nsr_fast.reward.reward import Part
from nsr_fast.reward.verdict import Score, Verdict
from nsr_fast.types import Rollout

MAX_COMPLETION_CHARS = 2000
MAX_DEPTH = 50

_SOLVED, _NOT_SOLVED = Score(Verdict.CORRECT, "equal"), Score(Verdict.WRONG, "different")
_TOKEN = re.compile(r"[0-9]{1,12}|[-+*/()]")
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_INTEGER = re.compile(r"-?[0-9]{1,12}")
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-"})


class Countdown(Part):
    """+1 for a completion that solves its row's problem, -1 for every other.

    A row's answer is its problem: {"numbers": [25, 7, 3], "target": 54} or "25,7,3>54".
    """

    name = "countdown"

    def check_rows(self, rows: list[dict], *, drop_bad_golds: bool) -> list[dict]:
        """Every answer must be a problem; none is dropped."""
        for row in rows:
            try:
                parse_problem(row.get("answer"))
            except InputError as error:
                raise InputError(f"data: row {row['id']!r}: {error}") from None
        return rows

    def finish(self, rollouts: Sequence[Rollout], handles: Sequence[None]) -> list[Score]:
        """The scores."""
        solved = (is_solution(r.text, *parse_problem(r.prompt.answer)) for r in rollouts)
        return [_SOLVED if is_solved else _NOT_SOLVED for is_solved in solved]


def parse_problem(answer: object) -> tuple[tuple[int, ...], int]:
    """(numbers, target) of an answer, given as a mapping or as text "25,7,3>54"."""
    if isinstance(answer, Mapping):
        numbers, target = answer.get("numbers"), answer.get("target")
    elif isinstance(answer, str) and answer.count(">") == 1:
        left, right = answer.split(">")
        numbers, target = left.split(","), right
    else:
        numbers, target = None, None
    try:
        return tuple(int(number) for number in numbers), int(target)
    except (TypeError, ValueError):
        raise InputError(
            'answer: expected a column of {"numbers": [25, 7, 3], "target": 54} or "25,7,3>54", '
            f"got {answer!r}"
        ) from None


def is_solution(completion: str, numbers: Sequence[int], target: int) -> bool:
    """True when the completion reaches target and uses every given number exactly once."""
    tagged = _ANSWER.findall(completion)
    text = (tagged[-1] if tagged else completion).translate(_SIGNS).strip()
    if not text or len(text) > MAX_COMPLETION_CHARS:
        return False
    available = Counter(Fraction(number) for number in numbers)
    try:
        for equation in text.split(","):
            _consume_equation(equation, available, is_whole_text="," not in text)
    except (_WrongError, ZeroDivisionError):
        return False
    return available == Counter([Fraction(target)])


class _WrongError(Exception):
    """The completion is not a solution: unreadable, a false equation, or an unavailable number."""


def _consume_equation(equation: str, available: Counter, *, is_whole_text: bool) -> None:
    """Replaces the operands of `expression = integer` in `available` by the value, in place."""
    sides = equation.split("=")
    if len(sides) > 2 or (len(sides) == 1 and not is_whole_text):
        raise _WrongError
    value, operands = _Expression(sides[0]).parse()
    for operand in operands:
        if available[operand] == 0:
            raise _WrongError
        available[operand] -= 1
        if available[operand] == 0:
            del available[operand]
    if len(sides) == 2:
        right = sides[1].strip()
        if not _INTEGER.fullmatch(right) or Fraction(int(right)) != value:
            raise _WrongError
    available[value] += 1


class _Expression:
    """Recursive descent over + - * / and parentheses; a minus before a number makes it negative."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokenize(text)
        self._next = 0
        self._operands: list[Fraction] = []

    def parse(self) -> tuple[Fraction, list[Fraction]]:
        value = self._sum(0)
        if self._next != len(self._tokens):
            raise _WrongError
        return value, self._operands

    def _take(self, choices: str) -> str | None:
        if self._next < len(self._tokens) and self._tokens[self._next] in choices:
            self._next += 1
            return self._tokens[self._next - 1]
        return None

    def _sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while sign := self._take("+-"):
            value = _OPERATIONS[sign](value, self._product(depth))
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._operand(depth)
        while sign := self._take("*/"):
            value = _OPERATIONS[sign](value, self._operand(depth))
        return value

    def _operand(self, depth: int) -> Fraction:
        if self._take("("):
            if depth == MAX_DEPTH:
                raise _WrongError
            value = self._sum(depth + 1)
            if not self._take(")"):
                raise _WrongError
            return value
        sign = -1 if self._take("-") else 1
        if self._next == len(self._tokens) or not self._tokens[self._next].isdigit():
            raise _WrongError
        value = Fraction(sign * int(self._tokens[self._next]))
        self._next += 1
        self._operands.append(value)
        return value


def _tokenize(text: str) -> list[str]:
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != "".join(text.split()):
        raise _WrongError
    return tokens
