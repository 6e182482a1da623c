r"""What a relation says: the interval or union of x > 3 and |x| < 2, the name in m+n = 15."""

import re

from nsr_fast.reward.math.shape import Leaf, Relation, Sequence, Shape, Union, is_variable, shape_of
from nsr_fast.reward.math.values import rational

_LETTER = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z]*\{)")
_QUANTITY = re.compile(
    r"\\frac\{d|\\(?:lim|sum|int|prod|max|min|gcd|det)(?![a-z])|\|[A-Z]{2}\|$"
    r"|[a-zA-Z](?:\^\{-1\}|'|_\{\w*\})*\((?:[^()=]|\([^()]*\))*\)$"
)
FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}


def region(relation: Relation) -> tuple[str, Shape] | None:
    """(variable, interval or union) of an inequality in one variable alone on its side."""
    parts, signs = relation.parts, relation.signs
    if len(signs) == 1 and signs[0] in FLIPPED and signs[0] != "=":
        if not (is_variable(parts[0]) or _modulus(parts[0])):
            parts, signs = parts[::-1], (FLIPPED[signs[0]],)
        if is_variable(parts[0]) and not is_variable(parts[1]):
            return parts[0], _half_line(signs[0], shape_of(parts[1]))
        if variable := _modulus(parts[0]):
            return _band(variable, signs[0], parts[1])
    if len(signs) == 2 and is_variable(parts[1]):
        if set(signs) <= {">", "\\ge"}:
            parts, signs = parts[::-1], tuple(FLIPPED[sign] for sign in signs[::-1])
        if set(signs) <= {"<", "\\le"}:
            opening, closing = "(" if signs[0] == "<" else "[", ")" if signs[1] == "<" else "]"
            ends = (shape_of(parts[0]), shape_of(parts[2]))
            return parts[1], Sequence(opening, closing, ends)
    return None


def is_name(text: str, value: str) -> bool:
    r"""Whether text = value only says what has the value: x, m+n, |AB|, f(g(2)), \frac{dy}{dx}."""
    is_constant = not has_letter(value) and value != "0"
    return is_quantity(text) or (is_constant and has_letter(text))


def is_quantity(text: str) -> bool:
    r"""A bare name, or what stands for one value: |AB|, f(g(2)), \frac{dy}{dx}, a limit."""
    return is_variable(text) or _QUANTITY.match(text) is not None


def has_letter(text: str) -> bool:
    return _LETTER.search(text.replace("\\pi", "")) is not None


def _modulus(text: str) -> str:
    """x of |x|."""
    inside = text[1:-1]
    return inside if text == f"|{inside}|" and is_variable(inside) else ""


def _band(variable: str, sign: str, end: str) -> tuple[str, Shape] | None:
    """|x| < c and |x| > c for a number c > 0."""
    value = rational(end)
    if value is None or value <= 0 or sign == "\\ne":
        return None
    low, high = Leaf(f"-{end}"), Leaf(end)
    if sign in ("<", "\\le"):
        brackets = ("(", ")") if sign == "<" else ("[", "]")
        return variable, Sequence(*brackets, (low, high))
    return variable, Union((_half_line(FLIPPED[sign], low), _half_line(sign, high)))


def _half_line(sign: str, end: Shape) -> Shape:
    infinity, minus_infinity = Leaf("\\infty"), Leaf("-\\infty")
    if sign in (">", "\\ge"):
        return Sequence("(" if sign == ">" else "[", ")", (end, infinity))
    if sign in ("<", "\\le"):
        return Sequence("(", ")" if sign == "<" else "]", (minus_infinity, end))
    below = Sequence("(", ")", (minus_infinity, end))
    return Union((below, Sequence("(", ")", (end, infinity))))
