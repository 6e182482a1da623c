r"""The shape of an answer: list, tuple, interval, set, union, matrix, relation, words, unit.

Works on normalised text and cuts it into leaves, the formulas that have no such shape. Nothing is
evaluated. A comma list is unordered, a tuple is ordered, brackets of intervals count.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nsr_fast.reward.math.units import plain_unit
from nsr_fast.reward.math.values import BASES, SIGNS, meaning, without_article

MAX_DEPTH = 16

_TOKEN = re.compile(
    r"\\text\{[^{}]*\}|\\(?:begin|end)\{[^{}]*\}|\\[{}]|\\[a-zA-Z]+|\\.|.", re.DOTALL
)
_OPEN = frozenset(("(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil"))
_CLOSE = frozenset((")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil"))
_LIST_SEPARATORS = frozenset((",", ";", "\\text{or}", "\\text{and}"))
ABOUT = "\\approx"
RELATIONS = frozenset(("=", "<", ">", "\\le", "\\ge", "\\ne", "\\in", ABOUT))
_WORDS = re.compile(r"(?:\\text\{[^{}]*\}|[a-zA-Z(){}\[\]'.\- ,/&])+")
_BASED = re.compile(
    r"\(?(-?(?:[0-9A-Z]|\\text\{[0-9a-zA-Z]+\})+)\)?"
    r"(?:_\{?(?:\\text\{)?(?:base ?)?\}?([a-z]+|\d{1,2})\}?\}?"
    r"|\(?\\text\{(?:in )?base ?(?:([a-z]+)\}|\}(?:_\{)?(\d{1,2})\}?)\)?)"
)
_TRANSPOSE = r"\^\{(?:T|\\top|\\intercal|\\text\{t\})\}"
_MATRIX = re.compile(
    r"((?:[^\\]|\\(?!begin))*)\\begin\{([pbBvV]?matrix|array|cases)\}(?:\{[^{}]*\})?"
    rf"((?:[^\\]|\\(?!begin|end))*)\\end\{{\2\}}({_TRANSPOSE})?",
    re.DOTALL,
)
_TUPLE_TRANSPOSED = re.compile(rf"(\([^()]*,[^()]*\)){_TRANSPOSE}")
_UNIT = re.compile(
    r"(.*?[^\\,(\[{^_])((?:(?:/|\\cdot)?\\text\{[^{}]*\}(?:\^\{-?\d\})?)+)", re.DOTALL
)
_DEGREE = re.compile(r"(.+)\^\{\\circ\}(?:\\text\{)?([cfCF]?)\}?")
_TEMPERATURE = {"": "degree", "c": "degree celsius", "f": "degree fahrenheit"}
_ANGLE = re.compile(r"\\text\{cis\}|\\(?:circ|sin|cos|tan|cot|sec|csc)")
_VARIABLE = re.compile(
    r"(?:m?\\angle ?)?"
    r"(?:[a-zA-Z]|[A-Z]{2,3}|\\(?!pi\b)[a-zA-Z]+|\\text\{[^{}]*\}|\\overline\{[A-Z]*\})"
    r"(?:_\{[^{}]*\}|'|\^\{-1\})*(?:\([a-zA-Z0-9,]*\))?"
)
_NAME = r"(?:[a-z]|\\[a-z]+)(?:_\{[^{}]*\})?"
_VARIABLES = re.compile(rf"\({_NAME}(?:,{_NAME})+\)")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A formula; unit is "" or the words after it as units.plain_unit gives them, "%", "degree"."""

    text: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """Text compared letter by letter, without case."""

    key: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """Ordered: a tuple, or an interval when there are two items."""

    opening: str
    closing: str
    items: tuple


@dataclass(frozen=True, slots=True)
class Collection:
    """Unordered: a set, a bare list of solutions, the two values of a plus-minus."""

    items: tuple


@dataclass(frozen=True, slots=True)
class Union:
    """Pieces of a set of numbers joined by a cup, or inequalities joined by "or"."""

    items: tuple


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple


@dataclass(frozen=True, slots=True)
class Based:
    """A numeral with its base."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Relation:
    """parts[0] signs[0] parts[1] signs[1] ..."""

    parts: tuple[str, ...]
    signs: tuple[str, ...]


Shape = Leaf | Words | Sequence | Collection | Union | Matrix | Based | Relation


def shape_of(text: str, depth: int = 0) -> Shape:
    """The outermost shape of a normalised answer; a Leaf when it has none."""
    text = _without_outer_braces(text)
    if depth > MAX_DEPTH:
        return Leaf(text)
    for find in (_listed, _united, _related, _bracketed, _tabulated, _worded, _based, _plus_minus):
        shape = find(text, depth)
        if shape is not None:
            return shape
    return _leaf(text)


def split_top_level(text: str, separators: frozenset[str]) -> tuple[list[str], list[str]]:
    """(pieces, separators between them), cutting outside of all brackets and environments."""
    pieces, signs, start = [], [], 0
    for match, depth, _ in _tokens(text):
        if depth == 0 and match.group() in separators:
            pieces.append(text[start : match.start()])
            signs.append(match.group())
            start = match.end()
    return [*(piece.strip() for piece in pieces), text[start:].strip()], signs


def letters(text: str) -> str:
    """What is compared of words: letters and digits of any script, lower case."""
    bare = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    return re.sub(r"[\W_]", "", bare.lower())


def _tokens(text: str) -> Iterator[tuple[re.Match, int, int]]:
    """(token, depth of brackets and environments behind it, +1 if it opens and -1 if it closes)."""
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        is_open = token in _OPEN or token.startswith("\\begin{")
        step = is_open - (token in _CLOSE or token.startswith("\\end{"))
        depth += step
        yield match, depth, step


def _without_outer_braces(text: str) -> str:
    while text.startswith("{") and text.endswith("}") and _closing_index(text) == len(text) - 1:
        text = text[1:-1]
    return text


def _closing_index(text: str) -> int:
    """Where the bracket that text starts with closes; -1 if it does not."""
    closings = (match for match, depth, step in _tokens(text) if depth == 0 and step == -1)
    return next((match.end() - 1 for match in closings), -1)


def _listed(text: str, depth: int) -> Shape | None:
    if re.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?:%|\^\{\\circ\}|\\text\{[^{}]*\})?", text):
        return None
    pieces, signs = split_top_level(text, _LIST_SEPARATORS)
    pieces = list(dict.fromkeys(piece for piece in pieces if piece))
    if not signs or len(pieces) < 2:
        return None if not signs or not pieces else shape_of(pieces[0], depth + 1)
    items = tuple(shape_of(piece, depth + 1) for piece in pieces)
    is_region = any(sign != "," for sign in signs) and all(map(_is_region, items))
    return Union(items) if is_region and "\\text{and}" not in signs else _flat(items)


def _is_region(shape: Shape) -> bool:
    if isinstance(shape, Relation):
        return "=" not in shape.signs
    return isinstance(shape, Union | Sequence)


def _flat(items: tuple) -> Collection:
    """A plus-minus inside a list gives its two values to the list."""
    flat: list[Shape] = []
    for item in items:
        flat += item.items if isinstance(item, Collection) else (item,)
    return Collection(tuple(flat))


def _united(text: str, depth: int) -> Shape | None:
    pieces, signs = split_top_level(text, frozenset(("\\cup",)))
    if not signs:
        return None
    items = tuple(shape_of(piece, depth + 1) for piece in pieces)
    return _flat(items) if all(isinstance(i, Collection) for i in items) else Union(items)


def _related(text: str, depth: int) -> Shape | None:
    parts, signs = split_top_level(text, RELATIONS)
    if not signs or not all(parts):
        return None
    if signs == ["\\in"] and is_variable(parts[0]):
        return shape_of(parts[1], depth + 1)
    return Relation(tuple(parts), tuple(signs))


def is_variable(text: str) -> bool:
    """A name that an answer may be assigned to: x, x_{1}, f(x), (x,y), \\theta, \\text{area}."""
    return _VARIABLE.fullmatch(text) is not None or _VARIABLES.fullmatch(text) is not None


def _bracketed(text: str, depth: int) -> Shape | None:
    opening = next((o for o in ("\\{", "\\langle", "(", "[") if text.startswith(o)), None)
    closing = next((c for c in ("\\}", "\\rangle", ")", "]") if text.endswith(c)), None)
    if opening is None or closing is None or _closing_index(text) != len(text) - 1:
        return None
    inside = text[len(opening) : -len(closing)].strip()
    if opening == "\\{":
        builder, signs = split_top_level(inside, frozenset(("|", ":")))
        if len(signs) == 1 and is_variable(builder[0].partition("\\in")[0]):
            return shape_of(builder[1], depth + 1)
    pieces, signs = split_top_level(inside, frozenset((",", ";")))
    if not signs:
        shape = shape_of(inside, depth + 1) if inside else Words("emptyset")
        return Collection((shape,)) if opening == "\\{" and inside else shape
    items = tuple(shape_of(piece, depth + 1) for piece in pieces)
    if opening == "\\{":
        return _flat(items)
    opening, closing = ("(", ")") if opening == "\\langle" else (opening, closing)
    return Sequence(opening, closing, items)


def _tabulated(text: str, depth: int) -> Shape | None:
    if match := _TUPLE_TRANSPOSED.fullmatch(text):
        return shape_of(match.group(1), depth + 1)
    match = _MATRIX.fullmatch(text)
    if match is None or match.group(2)[0] in "vV" or split_top_level(match.group(1), RELATIONS)[1]:
        return None
    rows = [row for row in split_top_level(match.group(3), frozenset(("\\\\",)))[0] if row]
    cells = [split_top_level(row, frozenset(("&",)))[0] for row in rows]
    if match.group(2) == "cases":
        items = tuple(shape_of("".join(row), depth + 1) for row in cells)
        return Collection(items) if all(isinstance(i, Relation) for i in items) else None
    if match.group(4) and len({len(row) for row in cells}) == 1:
        cells = [list(column) for column in zip(*cells)]
    scaled = [[_scaled(match.group(1), cell) for cell in row] for row in cells]
    return Matrix(tuple(tuple(shape_of(cell, depth + 1) for cell in row) for row in scaled))


def _scaled(factor: str, cell: str) -> str:
    """A cell of factor times a matrix."""
    factor = {"+": "", "-": "-1"}.get(factor, factor.removesuffix("\\cdot"))
    return f"({factor})\\cdot({cell})" if factor else cell


def _worded(text: str, depth: int) -> Shape | None:
    key = None
    if "\\text{" in text and _WORDS.fullmatch(text):
        key = meaning(letters(without_article(text)))
    if key == "infinity":
        return Leaf("\\infty")
    if key == "allrealnumbers" or text == "\\mathbb{R}":
        return Sequence("(", ")", (Leaf("-\\infty"), Leaf("\\infty")))
    if text in ("\\emptyset", "DNE"):
        key = "emptyset" if text == "\\emptyset" else "doesnotexist"
    return None if key is None else Words(key)


def _based(text: str, depth: int) -> Shape | None:
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    base = match.group(2) or match.group(3) or match.group(4)
    number = int(base) if base.isdigit() else BASES.get(base)
    digits = re.sub(r"\\text\{([^{}]*)\}", r"\1", match.group(1)).upper()
    is_wide = number is not None and number > 10  # digits beyond 9 are letters
    is_number = number is not None and 2 <= number <= 36 and (is_wide or re.search(r"\d", digits))
    return Based(digits, number) if is_number else None


def _plus_minus(text: str, depth: int) -> Shape | None:
    if "\\pm" not in text and "\\mp" not in text:
        return None
    upper = text.replace("\\pm", "+").replace("\\mp", "-")
    lower = text.replace("\\pm", "-").replace("\\mp", "+")
    return Collection(tuple(shape_of(t.removeprefix("+"), depth + 1) for t in (upper, lower)))


def _leaf(text: str) -> Leaf:
    if text.endswith("%"):
        return Leaf(text[:-1], "%")
    if match := _DEGREE.fullmatch(text):
        if not _ANGLE.search(match.group(1)):
            return Leaf(match.group(1), _TEMPERATURE[(match.group(2) or "").lower()])
    elif (match := _UNIT.fullmatch(text)) and not match.group(1).endswith("\\"):
        unit = plain_unit(match.group(2))
        return Leaf(match.group(1), SIGNS.get(unit, unit))
    return Leaf(text)
