"""Values that cross from a sandboxed program to the host: plain data as tagged JSON, nothing else.

encoded   in the sandbox, before the text of inside_child.py; methods of the plain types only, so
          that no class of the program can answer for its value
decoded   on the host; anything that is not plain data becomes an Opaque, equal to nothing
"""

from decimal import Decimal
from fractions import Fraction

_ITERATORS = {"l": list, "u": tuple, "e": set, "z": frozenset}
_VIEWS = (type({}.keys()), type({}.items()))


class Opaque:
    """A value without plain form; only its truth is known."""

    __slots__ = ("is_true",)
    __hash__ = object.__hash__

    def __init__(self, is_true):
        self.is_true = is_true

    def __bool__(self):
        return self.is_true

    def __eq__(self, other):
        return False


def encoded(value, depth=0):
    """[tag, content] of a value; lists, dicts and sets by their own iterators, subclasses too."""
    kind = type(value)
    if depth > 100:
        return ["o", True]
    if value is None or kind is bool:
        return ["k", value]
    if issubclass(kind, int):
        return ["i", int.__format__(value, "x")]
    if issubclass(kind, float):
        return ["f", float.__repr__(value)]
    if issubclass(kind, complex):
        return ["c", complex.__repr__(value)]
    if issubclass(kind, str):
        return ["s", str.__str__(value)]
    if issubclass(kind, bytes | bytearray):
        return ["b", bytes(value).hex()]
    if kind is Fraction or kind is Decimal:
        return ["q" if kind is Fraction else "D", str(value)]
    for tag, base in _ITERATORS.items():
        if issubclass(kind, base):
            return [tag, [encoded(item, depth + 1) for item in base.__iter__(value)]]
    if issubclass(kind, dict):
        pairs = dict.items(value)
        return ["d", [[encoded(k, depth + 1), encoded(v, depth + 1)] for k, v in pairs]]
    if kind in _VIEWS:
        return ["e", [encoded(item, depth + 1) for item in value]]
    return ["o", bool(value)]


def decoded(tree):
    """The value of encoded's tree; ValueError or TypeError on anything that it does not write."""
    tag, content = tree
    if tag == "k" and (content is None or isinstance(content, bool)):
        return content
    if tag == "s" and isinstance(content, str):
        return content
    readers = {"f": float, "c": complex, "b": bytes.fromhex, "q": Fraction, "D": Decimal}
    if tag == "i":
        return int(content, 16)
    if tag in readers and isinstance(content, str):
        return readers[tag](content)
    if tag in _ITERATORS and isinstance(content, list):
        return _ITERATORS[tag](decoded(item) for item in content)
    if tag == "d":
        return {decoded(key): decoded(value) for key, value in content}
    if tag == "o":
        return Opaque(bool(content))
    raise ValueError(f"expected a tagged value, got {str(tree)[:40]}")
