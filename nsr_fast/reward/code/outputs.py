"""Whether what a program printed is what was expected."""

import re
from decimal import Decimal, InvalidOperation
from math import isfinite

_TOLERANCE = 1e-6
_INTEGER = re.compile(r"-?(?:0|[1-9]\d*)")
_DECIMAL = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+|\d+(?:\.\d*)?[eE][+-]?\d+)")


def outputs_match(output: str, expected: str) -> bool:
    """Equal token by token; tokens of an expected decimal may differ by 1e-6.

    An expected integer may be printed as a decimal of exactly this value.
    """
    if output == expected:
        return True
    tokens, wanted = output.split(), expected.split()
    return len(tokens) == len(wanted) and all(map(_tokens_match, tokens, wanted))


def _tokens_match(token: str, wanted: str) -> bool:
    if token == wanted:
        return True
    if _INTEGER.fullmatch(wanted):
        return bool(_DECIMAL.fullmatch(token)) and _is_exactly(token, wanted)
    if not _DECIMAL.fullmatch(wanted):
        return False
    try:
        value, target = float(token), float(wanted)
    except ValueError:
        return False
    return isfinite(target) and abs(value - target) <= _TOLERANCE * max(1.0, abs(target))


def _is_exactly(token: str, wanted: str) -> bool:
    try:
        return len(token) < 400 and Decimal(token) == Decimal(wanted)
    except InvalidOperation:
        return False
