r"""Whether a normalised answer is made of plain algebra, which the workers can surely read.

    sum     = [sign] product (sign product)*
    product = factor ((* | / | nothing) factor)*
    factor  = number, letter, constant, group, \\frac{}{}, \\sqrt[]{}, with powers and indices

Nothing is evaluated. What is not plain is not wrong: a worker is asked.
"""

import re
from collections.abc import Iterator

from nsr_fast.reward.math.shape import (
    Collection,
    Leaf,
    Matrix,
    Relation,
    Sequence,
    Shape,
    Union,
    shape_of,
)
from nsr_fast.reward.math.values import rational

_TOKEN = re.compile(r"\\[a-zA-Z]+|\d+(?:\.\d+)?|\.\d+|.", re.DOTALL)
_CONSTANT = re.compile(r"[a-zA-Z]|\\(?:pi|theta|alpha|beta|gamma|phi|lambda|omega|infty)|[\d.]+")
_SIGNS, _TIMES = frozenset("+-"), frozenset(("*", "/", "\\cdot", "\\times"))
_CLOSING = {"(": ")", "{": "}", "[": "]"}
_MAX_DEPTH = 24


class _NotPlainError(Exception):
    pass


def is_plain(text: str) -> bool:
    """Whether every formula of a normalised answer is plain."""
    return all(rational(leaf) is not None or _is_plain_formula(leaf) for leaf in leaves(text))


def leaves(text: str) -> Iterator[str]:
    """The formulas of an answer that has a shape."""
    yield from _leaves(shape_of(text))


def _leaves(shape: Shape) -> Iterator[str]:
    if isinstance(shape, Leaf):
        yield shape.text
    elif isinstance(shape, Sequence | Collection | Union):
        for item in shape.items:
            yield from _leaves(item)
    elif isinstance(shape, Matrix):
        for row in shape.rows:
            for cell in row:
                yield from _leaves(cell)
    elif isinstance(shape, Relation):
        for part in shape.parts:
            yield from leaves(part)


def _is_plain_formula(text: str) -> bool:
    tokens = _TOKEN.findall(text)
    try:
        return _sum(tokens, 0, 0) == len(tokens)
    except (_NotPlainError, IndexError):
        return False


def _sum(tokens: list[str], start: int, depth: int) -> int:
    """The index behind the sum that starts at `start`."""
    if depth > _MAX_DEPTH:
        raise _NotPlainError
    index = start + (tokens[start] in _SIGNS)
    while True:
        index = _product(tokens, index, depth)
        if index == len(tokens) or tokens[index] not in _SIGNS:
            return index
        index += 1


def _product(tokens: list[str], index: int, depth: int) -> int:
    index = _factor(tokens, index, depth)
    while index < len(tokens):
        if tokens[index] in _TIMES:
            index = _factor(tokens, index + 1, depth)
        elif tokens[index] == " ":
            index += 1
        elif tokens[index] in _SIGNS or tokens[index] in ")]}":
            break
        else:
            index = _factor(tokens, index, depth)
    return index


def _factor(tokens: list[str], index: int, depth: int) -> int:
    token = tokens[index]
    if token == "\\frac":
        index = _group(tokens, _group(tokens, index + 1, depth, "{"), depth, "{")
    elif token == "\\sqrt":
        index += 1
        if tokens[index] == "[":
            index = _group(tokens, index, depth, "[")
        index = _group(tokens, index, depth, "{")
    elif token in ("(", "{"):
        index = _group(tokens, index, depth, token)
    elif _CONSTANT.fullmatch(token):
        index += 1
    else:
        raise _NotPlainError
    while index < len(tokens) and tokens[index] in ("^", "_"):
        index = _group(tokens, index + 1, depth, "{")
    return index


def _group(tokens: list[str], index: int, depth: int, opening: str) -> int:
    """The index behind a bracketed sum."""
    if tokens[index] != opening:
        raise _NotPlainError
    index = _sum(tokens, index + 1, depth + 1)
    if tokens[index] != _CLOSING[opening]:
        raise _NotPlainError
    return index + 1
