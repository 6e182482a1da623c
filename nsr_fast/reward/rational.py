r"""Exact value of an answer that is one number: 12, -0.5, 1,000, \frac{3}{4}, 3\frac{1}{2}."""

import re
from fractions import Fraction

MAX_DIGITS = 400
_MAX_EXPONENT = 400

_UNSIGNED = r"(?:\d+(?:\.\d*)?|\.\d+)"
_SIGNED = rf"[+-]?{_UNSIGNED}"
_NUMBER = re.compile(rf"{_SIGNED}")
_POWER_OF_TEN = re.compile(r"([+-]?\d(?:\.\d+)?)[eE]([+-]?\d{1,3})")
_GROUPED = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+(?:\.\d+)?)")
_SLASH = re.compile(rf"({_SIGNED})/({_SIGNED})")
_FRAC = re.compile(rf"([+-]?)\\frac\{{({_SIGNED})\}}\{{({_SIGNED})\}}")
_MIXED = re.compile(r"([+-]?)(\d+)\\frac\{(\d+)\}\{(\d+)\}")
_SCIENTIFIC = re.compile(
    rf"({_SIGNED})(?:\\times|\\cdot|\*)10\^\{{([+-]?\d{{1,4}})\}}|([+-]?)10\^\{{([+-]?\d{{1,4}})\}}"
)
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\overline\{(\d+)\}")


def rational(text: str) -> Fraction | None:
    """The exact value of one number without percent sign, None if it is anything else."""
    if not text or len(text) > MAX_DIGITS or not (text[-1].isdigit() or text[-1] in "}."):
        return None
    if _NUMBER.fullmatch(text):
        return Fraction(text)
    if match := _POWER_OF_TEN.fullmatch(text):
        return _power_of_ten(match.group(1), int(match.group(2)))
    if match := _GROUPED.fullmatch(text):
        return Fraction(match.group(1) + match.group(2).replace(",", ""))
    if match := _SLASH.fullmatch(text):
        return _quotient("", *match.groups())
    if match := _FRAC.fullmatch(text):
        return _quotient(*match.groups())
    if match := _MIXED.fullmatch(text):
        return _mixed(*match.groups())
    if match := _SCIENTIFIC.fullmatch(text):
        factor, exponent = match.group(1), match.group(2)
        if factor is None:
            factor, exponent = match.group(3) + "1", match.group(4)
        return _power_of_ten(factor, int(exponent))
    if match := _REPEATING.fullmatch(text):
        return _repeating(*match.groups())
    return None


def _quotient(sign: str, top: str, bottom: str) -> Fraction | None:
    divisor = Fraction(bottom)
    if divisor == 0:
        return None
    value = Fraction(top) / divisor
    return -value if sign == "-" else value


def _mixed(sign: str, whole: str, top: str, bottom: str) -> Fraction | None:
    part = _quotient("", top, bottom)
    if part is None:
        return None
    value = int(whole) + part
    return -value if sign == "-" else value


def _power_of_ten(factor: str, exponent: int) -> Fraction | None:
    return Fraction(factor) * Fraction(10) ** exponent if abs(exponent) <= _MAX_EXPONENT else None


def _repeating(sign: str, whole: str, start: str, period: str) -> Fraction:
    value = Fraction(int((whole + start + period) or 0) - int((whole + start) or 0))
    value /= 10 ** len(start) * (10 ** len(period) - 1)
    return -value if sign == "-" else value
