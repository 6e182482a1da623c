r"""Equality of two formulas through math-verify and sympy; runs in worker processes only.

math-verify 0.9.0 parses. Its own comparison is corrected where it errs: numbers are compared by
relative, not absolute difference, decimals are exact, degrees in functions are degrees, i is
imaginary, and formulas with variables are evaluated at fixed points. Text is never executed.
"""

import logging
import re
from collections.abc import Iterator
from functools import lru_cache

import sympy
from math_verify import LatexExtractionConfig, parse, verify

from nsr_fast.reward.math.shape import RELATIONS, split_top_level

logging.getLogger("math_verify").setLevel(logging.ERROR)

DIGITS = 40
_RELATIVE = sympy.Float("1e-30")
_CONFIG = [LatexExtractionConfig(boxed_match_priority=0)]
_DEGREES = re.compile(r"(\d+(?:\.\d+)?|\([^()]*\)|\\frac\{\d+\}\{\d+\})\^\{\\circ\}")
_FUNCTION_POWER = re.compile(
    r"\\(sin|cos|tan|cot|sec|csc|ln|log)\^\{(\d+)\} ?"
    r"(\((?:[^()]|\([^()]*\))*\)|\{[^{}]*\}|\\frac\{[^{}]*\}\{[^{}]*\}|\d*(?:\\[a-z]+|[a-z])|\d+)"
)
_CIS = re.compile(r"\\text\{cis\}(\([^()]*\)|[^()]+$)")
_DOUBLED = re.compile(r"\(\(([^()]*)\)\)")
_POINTS = (
    (sympy.Rational(1371, 1000), sympy.Rational(419, 1000)),
    (sympy.Rational(2713, 1000), sympy.Rational(-617, 1000)),
    (sympy.Rational(577, 1000), sympy.Rational(1103, 1000)),
    (sympy.Rational(-1889, 1000), sympy.Rational(733, 1000)),
)


class UnparsedError(ValueError):
    """A formula that cannot be read; `text` says which."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def formulas_equal(a: str, b: str) -> bool:
    """Whether two normalised formulas, equations or inequalities have the same value.

    Raises UnparsedError when one of them cannot be read.
    """
    sides, others = _sides(a), _sides(b)
    if sides is not None and others is not None:
        return _relations_equal(sides, others)
    x, y = parsed(a), parsed(b)
    if isinstance(x, sympy.Expr) and isinstance(y, sympy.Expr):
        return _expressions_equal(x, y)
    return bool(_verified(x, y) or _verified(y, x))


@lru_cache(maxsize=4096)
def parsed(text: str) -> sympy.Basic:
    """The sympy object of a formula."""
    original, doubled = text, ""
    while text != doubled:  # the parser takes longer with every bracket
        doubled, text = text, _DOUBLED.sub(r"(\1)", text)
    text = _DEGREES.sub(r"\\frac{\1\\pi}{180}", text).replace("%", "")
    text = _CIS.sub(r"(\\cos(\1)+i\\sin(\1))", text)
    text = re.sub(r"\\lg(?![a-z])", r"\\log_{10}", text)
    text = _FUNCTION_POWER.sub(r"(\\\1(\3))^{\2}", text)
    found = parse(f"\\boxed{{{text}}}", _CONFIG, "no_fallback", parsing_timeout=None)
    if not found or not isinstance(found[0], sympy.Basic | sympy.MatrixBase):
        raise UnparsedError(original)
    if not isinstance(found[0], sympy.Expr):
        return found[0]
    exact = found[0].replace(lambda e: e.is_Float, lambda e: sympy.Rational(str(e)))
    imaginary = {s: sympy.I for s in exact.free_symbols if s.name == "i"}
    return exact.xreplace(imaginary) if imaginary else exact


def _verified(x: sympy.Basic, y: sympy.Basic) -> bool:
    return verify(x, y, timeout_seconds=None)


def _expressions_equal(x: sympy.Expr, y: sympy.Expr) -> bool:
    if x == y:
        return True
    if x.has(sympy.oo, -sympy.oo, sympy.zoo) or y.has(sympy.oo, -sympy.oo, sympy.zoo):
        return bool(x.doit() == y.doit())
    if not x.free_symbols and not y.free_symbols:
        return _numbers_equal(x, y)
    outcome = _equal_at_points(x, y)
    return bool(_verified(x, y)) if outcome is None else outcome


def _numbers_equal(x: sympy.Expr, y: sympy.Expr) -> bool:
    """By value; an odd root of a negative number may be the real one or the principal one."""
    real = [e.replace(_is_odd_root, _real_root) for e in (x, y)]
    return _values_equal(x, y) or (real != [x, y] and _values_equal(*real))


def _is_odd_root(e: sympy.Basic) -> bool:
    is_root = e.is_Pow and e.base.is_Rational and e.base < 0
    exponent = e.exp.doit() if is_root else None
    return bool(is_root and exponent.is_Rational and not exponent.is_Integer and exponent.q % 2)


def _real_root(e: sympy.Pow) -> sympy.Expr:
    exponent = e.exp.doit()
    return (-1) ** exponent.p * (-e.base) ** exponent


def _values_equal(x: sympy.Expr, y: sympy.Expr) -> bool:
    a, b = _number(x), _number(y)
    if a is None or b is None:
        return bool(_verified(x, y))
    scale = max(abs(a), abs(b))
    if scale < _RELATIVE or abs(a - b) > _RELATIVE * scale:
        # Cancellation leaves a tiny number where the exact value is zero.
        is_doubtful = scale < _RELATIVE or min(abs(a), abs(b)) < _RELATIVE
        return bool(is_doubtful and (x - y).equals(0))
    return True


def _number(x: sympy.Expr, values: dict | None = None) -> sympy.Expr | None:
    """The value to DIGITS digits, None when it is not a finite number."""
    value = x.doit().evalf(DIGITS, subs=values) if values else x.doit().evalf(DIGITS)
    is_number = value.is_number and value.is_finite is not False
    return value if is_number and not value.has(sympy.nan, sympy.zoo) and _is_plain(value) else None


def _is_plain(value: sympy.Expr) -> bool:
    real, imaginary = value.as_real_imag()
    return bool(real.is_Number and imaginary.is_Number)


def _at_points(x: sympy.Expr, y: sympy.Expr) -> Iterator[tuple[sympy.Expr, sympy.Expr, dict]]:
    """(x, y, values of the symbols) at fixed points without special relations, if both have one."""
    symbols = sorted(x.free_symbols | y.free_symbols, key=str)
    for start, step in _POINTS:
        values = {symbol: start + step * i for i, symbol in enumerate(symbols)}
        a, b = _number(x, values), _number(y, values)
        if a is not None and b is not None:
            yield a, b, values


def _equal_at_points(x: sympy.Expr, y: sympy.Expr) -> bool | None:
    """Equality at fixed points where both are defined; None when no point tells."""
    told = None
    for a, b, values in _at_points(x, y):
        is_real = a.is_real and b.is_real
        difference, scale = abs(a - b), max(abs(a), abs(b))
        if difference > _RELATIVE * scale and difference > _RELATIVE:
            if is_real or min(values.values()) > 0:
                return False
            continue
        told = True
    return told


def _sides(text: str) -> tuple[str, str, str] | None:
    """(left, sign, right) of one equation or inequality."""
    parts, signs = split_top_level(text, RELATIONS)
    return (parts[0], signs[0], parts[1]) if len(signs) == 1 and all(parts) else None


def _relations_equal(a: tuple[str, str, str], b: tuple[str, str, str]) -> bool:
    """Whether left - right of the two differ by a constant factor (positive for inequalities)."""
    x, y = (parsed(r[0]) - parsed(r[2]) for r in (a, b))
    ratios = [p / q for p, q, _ in _at_points(x, y) if p != 0 and q != 0]
    if len(ratios) < 2 or a[1] != b[1]:
        return False
    if any(abs(r - ratios[0]) > _RELATIVE * abs(ratios[0]) for r in ratios):
        return False
    return a[1] in ("=", "\\ne") or bool(ratios[0].is_positive)
