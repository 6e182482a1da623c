r"""Equality of two formulas through math-verify and sympy; runs in worker processes only.

math-verify 0.9.0 parses, units as variables: what is a unit was cut off before. Its own comparison
is corrected where it errs: rationals are compared exactly, other numbers by relative difference in
digits that grow with their numerals, decimals are exact, degrees in functions are degrees, i is
imaginary, and formulas with variables are evaluated at fixed points. Text is never executed.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

import sympy
from math_verify import LatexExtractionConfig, parse, verify

from nsr_fast.reward.math.exact import TooLargeError, exact_value
from nsr_fast.reward.math.shape import ABOUT, RELATIONS, split_top_level

logging.getLogger("math_verify").setLevel(logging.ERROR)

DIGITS = 40  # tells most numbers apart
PROOF_DIGITS = 600  # e^{-1000} + 1 is not 1
MAX_PROOF_DIGITS = 3000
_RELATIVE = sympy.Float("1e-30")
_POINT_RELATIVE = sympy.Float("1e-75", PROOF_DIGITS // 4)
_CONFIG = LatexExtractionConfig(boxed_match_priority=0)
_CONFIG = replace(_CONFIG, normalization_config=replace(_CONFIG.normalization_config, units=False))
_DEGREES = re.compile(r"(\d+(?:\.\d+)?|\([^()]*\)|\\frac\{\d+\}\{\d+\})\^\{\\circ\}")
_FUNCTION_POWER = re.compile(
    r"\\(sin|cos|tan|cot|sec|csc|ln|log)\^\{(\d+)\} ?"
    r"(\((?:[^()]|\([^()]*\))*\)|\{[^{}]*\}|\\frac\{[^{}]*\}\{[^{}]*\}|\d*(?:\\[a-z]+|[a-z])|\d+)"
)
_CIS = re.compile(r"\\text\{cis\}(\([^()]*\)|[^()]+$)")
_LONG_DECIMAL = re.compile(r"(?<![\d.])(?=[\d.]{15})(\d*)\.(\d+)")  # more digits than a float has
_ROUNDED = re.compile(r"-?\d+(?:\.(\d+))?")
_D = re.compile(r"(\\[a-zA-Z]+)|d(?=[a-zA-Z\\])")  # the parser reads dc as a differential
_DOUBLED = re.compile(r"\(\(([^()]*)\)\)")
_POINTS = (
    (Fraction(1371, 1000), Fraction(419, 1000)),
    (Fraction(2713, 1000), Fraction(-617, 1000)),
    (Fraction(577, 1000), Fraction(1103, 1000)),
    (Fraction(-1889, 1000), Fraction(733, 1000)),
)


class UnparsedError(ValueError):
    """A formula that cannot be read; `text` says which."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def formulas_equal(a: str, b: str) -> bool:
    """Whether two normalised formulas, equations or inequalities have the same value.

    "\\approx" before one of them asks whether the other is its rounded value.
    Raises UnparsedError when one of them cannot be read.
    """
    if a.startswith(ABOUT) != b.startswith(ABOUT):
        about, rounded = (a, b) if a.startswith(ABOUT) else (b, a)
        return _rounds_to(about.removeprefix(ABOUT), rounded)
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
    text = _LONG_DECIMAL.sub(lambda m: f"({m.group(1)}{m.group(2)}/1{len(m.group(2)) * '0'})", text)
    if "\\int" not in text and "\\frac{d" not in text:
        text = _D.sub(lambda m: m.group(1) or "{d}", text)
    found = parse(f"\\boxed{{{text}}}", [_CONFIG], "no_fallback", parsing_timeout=None)
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
    try:
        a, b = exact_value(x), exact_value(y)
    except TooLargeError:  # only the same text is the same number then
        return False
    if a is not None and b is not None:
        return a == b
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
    x, y = x.doit(), y.doit()
    if x.is_Rational and y.is_Rational:
        return bool(x == y)
    a, b = _number(x), _number(y)
    if a is None or b is None:
        return bool(_verified(x, y))
    scale = max(abs(a), abs(b))
    if scale < _RELATIVE or abs(a - b) > _RELATIVE * scale:
        # Cancellation leaves a tiny number where the exact value is zero.
        is_doubtful = scale < _RELATIVE or min(abs(a), abs(b)) < _RELATIVE
        return bool(is_doubtful and (x - y).equals(0))
    return _agree_in_all_digits(x, y)


def _agree_in_all_digits(x: sympy.Expr, y: sympy.Expr) -> bool:
    """Equal values stay equal in more digits than their numerals have; neighbours do not."""
    sizes = [n for e in (x, y) for r in e.atoms(sympy.Rational) for n in (abs(r.p), r.q)]
    numeral = max((int(n).bit_length() for n in sizes), default=0)
    digits = min(PROOF_DIGITS + numeral, MAX_PROOF_DIGITS)
    a, b = _number(x, digits=digits), _number(y, digits=digits)
    if a is None or b is None:
        return False
    # Half of the digits may be lost to cancellation inside of either expression.
    return bool(abs(a - b) <= max(abs(a), abs(b)) * sympy.Float(10, digits) ** -(digits // 2))


def _number(
    x: sympy.Expr, values: Mapping | None = None, *, digits: int = DIGITS
) -> sympy.Expr | None:
    """The value to that many digits, None when it is not a finite number."""
    known = {s: sympy.Rational(v.numerator, v.denominator) for s, v in (values or {}).items()}
    value = x.doit().evalf(digits, subs=known) if known else x.doit().evalf(digits)
    is_number = value.is_number and value.is_finite is not False
    return value if is_number and not value.has(sympy.nan, sympy.zoo) and _is_plain(value) else None


def _is_plain(value: sympy.Expr) -> bool:
    real, imaginary = value.as_real_imag()
    return bool(real.is_Number and imaginary.is_Number)


def _points(*formulas: sympy.Expr) -> Iterator[dict[sympy.Symbol, Fraction]]:
    """Values of the symbols at fixed points without special relations."""
    symbols = sorted(set().union(*(e.free_symbols for e in formulas)), key=str)
    for start, step in _POINTS:
        yield {symbol: start + step * i for i, symbol in enumerate(symbols)}


def _exact_pair(x: sympy.Expr, y: sympy.Expr, values: Mapping) -> tuple | None:
    """The values of both at a point where both are rational."""
    try:
        a, b = exact_value(x, values), exact_value(y, values)
    except TooLargeError:
        return None
    return None if a is None or b is None else (a, b)


def _equal_at_points(x: sympy.Expr, y: sympy.Expr) -> bool | None:
    """Equality at fixed points where both are defined; None when no point tells."""
    told = None
    for values in _points(x, y):
        if (pair := _exact_pair(x, y, values)) is not None:
            if pair[0] != pair[1]:
                return False
            told = True
            continue
        outcome = _equal_at_point(x, y, values)
        if outcome is False:
            return False
        told = outcome or told
    return told


def _equal_at_point(x: sympy.Expr, y: sympy.Expr, values: Mapping) -> bool | None:
    a, b = _number(x, values), _number(y, values)
    if a is None or b is None:
        return None
    difference, scale = abs(a - b), max(abs(a), abs(b))
    if difference > _RELATIVE * scale and difference > _RELATIVE:
        is_real = a.is_real and b.is_real
        return False if is_real or min(values.values()) > 0 else None
    a, b = (_number(e, values, digits=PROOF_DIGITS // 4) for e in (x, y))
    if a is None or b is None:
        return None
    if scale < _RELATIVE and any(v.is_zero or getattr(v, "_prec", 99) < 5 for v in (a, b)):
        return bool(abs(a - b) < _POINT_RELATIVE)  # zero, as far as digits tell
    # Half of the digits may be lost to cancellation inside of either formula.
    return bool(abs(a - b) <= scale * _POINT_RELATIVE)


def _sides(text: str) -> tuple[str, str, str] | None:
    """(left, sign, right) of one equation or inequality."""
    parts, signs = split_top_level(text, RELATIONS)
    return (parts[0], signs[0], parts[1]) if len(signs) == 1 and all(parts) else None


def _relations_equal(a: tuple[str, str, str], b: tuple[str, str, str]) -> bool:
    """Whether left - right of the two differ by a constant factor (positive for inequalities)."""
    x, y = (parsed(r[0]) - parsed(r[2]) for r in (a, b))
    if a[1] != b[1] or not (x.free_symbols and y.free_symbols):
        return False  # a statement about numbers is compared side by side
    ratios = [ratio for values in _points(x, y) if (ratio := _ratio(x, y, values)) is not None]
    if len(ratios) < 2 or not all(_same_ratio(r, ratios[0]) for r in ratios):
        return False
    return a[1] in ("=", "\\ne") or bool(ratios[0].is_positive)


def _ratio(x: sympy.Expr, y: sympy.Expr, values: Mapping) -> sympy.Expr | None:
    pair = _exact_pair(x, y, values)
    if pair is not None:
        p, q = (sympy.Rational(value.numerator, value.denominator) for value in pair)
    else:
        p, q = _number(x, values), _number(y, values)
    return p / q if p is not None and q is not None and p != 0 and q != 0 else None


def _same_ratio(r: sympy.Expr, s: sympy.Expr) -> bool:
    return bool(r == s if r.is_Rational and s.is_Rational else abs(r - s) <= _RELATIVE * abs(s))


def _rounds_to(about: str, rounded: str) -> bool:
    """Whether a decimal numeral is what another formula's value is rounded or cut to."""
    match = _ROUNDED.fullmatch(rounded)
    value = _number(parsed(about))
    if match is None or value is None or not value.is_real:
        return False
    difference = abs(value - sympy.Rational(rounded))
    last_place = sympy.Rational(1, 10 ** len(match.group(1) or ""))
    is_cut = match.group(1) and abs(sympy.Rational(rounded)) < abs(value)
    return bool(difference < last_place if is_cut else 2 * difference <= last_place)
