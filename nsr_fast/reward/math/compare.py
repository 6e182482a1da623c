r"""Equality of two answer shapes; formulas are decided by a function for leaves.

    True, False, or None where the leaf function cannot tell

Symmetric. Policy: units, degree and currency signs may be omitted; a percentage may stand for its
number or its hundredth; x = 5 and 5 are the same answer; an inequality equals its interval.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from nsr_fast.reward.math.regions import FLIPPED, is_name, region
from nsr_fast.reward.math.shape import (
    Based,
    Collection,
    Leaf,
    Matrix,
    Relation,
    Sequence,
    Shape,
    Union,
    Words,
    is_variable,
    letters,
    shape_of,
)
from nsr_fast.reward.math.values import (
    NUMBERS,
    SCALES,
    UNITS,
    option_and_rest,
    rational,
    without_modulus,
)

Outcome = bool | None
LeafEqual = Callable[[str, str], Outcome]
MAX_ITEMS = 64

_SETS = re.compile(r"\\(?:setminus|backslash|cap|mathbb|emptyset)(?![a-zA-Z])")
_GROUPED = re.compile(r"-?\d{1,3}(?:,\d{3})+")
_RATIO = re.compile(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)")


def shapes_equal(a: Shape, b: Shape, leaf_equal: LeafEqual) -> Outcome:
    """Whether two answers are the same."""
    if a == b:
        return True
    a, b = _single(a), _single(b)
    for kinds, compare in _RULES:
        for x, y in ((a, b), (b, a)):
            if isinstance(x, kinds[0]) and isinstance(y, kinds[1]):
                return compare(x, y, leaf_equal)
    return False


def texts_equal(a: str, b: str, leaf_equal: LeafEqual) -> Outcome:
    """shapes_equal of two normalised texts."""
    if a == b:
        return True
    a, b = without_modulus(a, b)
    if (outcome := _options(a, b, leaf_equal)) is not None:
        return outcome
    outcome = shapes_equal(shape_of(a), shape_of(b), leaf_equal)
    # Sets such as \mathbb{R} \setminus \{0\} have no shape here; algebra may know them.
    is_undecided = outcome is False and (_SETS.search(a) or _SETS.search(b))
    return leaf_equal(a, b) if is_undecided else outcome


def _options(a: str, b: str, leaf_equal: LeafEqual) -> Outcome:
    """True when one is an option with its letter, (B) 12, and the other its letter or value."""
    given = option_and_rest(a), option_and_rest(b)
    if (given[0] is None) == (given[1] is None):
        return None
    (letter, rest), other = (given[0], b) if given[0] else (given[1], a)
    is_letter = letters(other) == letter and len(other) <= len("\\text{(b)}")
    return True if is_letter or texts_equal(rest, other, leaf_equal) is True else None


def rational_leaves(a: str, b: str) -> Outcome:
    """The leaf function that needs no algebra: equal texts and exact rationals, else None."""
    if a == b:
        return True
    x, y = rational(a), rational(b)
    return None if x is None or y is None else x == y


def _single(shape: Shape) -> Shape:
    """A set of one element stands for the element."""
    is_single = isinstance(shape, Collection | Union) and len(shape.items) == 1
    return shape.items[0] if is_single else shape


def _all(outcomes: Iterable[Outcome], end: bool = False) -> Outcome:
    """False if any is False, else None if any is None, else True; stops at the first False."""
    result: Outcome = not end
    for outcome in outcomes:
        if outcome is end:
            return end
        result = None if outcome is None else result
    return result


any_true = partial(_all, end=True)  # True if any is, else None if any is, else False


def _leaves(a: Leaf, b: Leaf, leaf_equal: LeafEqual) -> Outcome:
    if UNITS.get(a.unit, a.unit) != UNITS.get(b.unit, b.unit) and a.unit and b.unit:
        both_known = a.unit in UNITS and b.unit in UNITS
        if both_known or {a.unit, b.unit} & {"%", "degree"}:
            return False
    if ":" in a.text or ":" in b.text:
        return _times_or_ratios(a, b, leaf_equal)
    if letters(a.text) == letters(b.text) and a.text.isalpha() and b.text.isalpha():
        return len(a.text) == 1 or a.text == b.text
    pairs = [(a.text, b.text), *_readings(a, b), *_readings(b, a)]
    return any_true(leaf_equal(x, y) for x, y in pairs)


def _readings(a: Leaf, b: Leaf) -> Iterator[tuple[str, str]]:
    """What a's unit lets it stand for: 3.2 million, 25 % a quarter, 30 degrees a sixth of pi."""
    if scale := next((n for word, n in SCALES.items() if a.unit.startswith(word)), 0):
        yield f"{a.text}\\cdot10^{{{scale}}}", b.text
    if a.unit == "%" != b.unit:
        yield b.text, f"\\frac{{{a.text}}}{{100}}"
    if a.unit == "degree" != b.unit and "\\pi" in b.text:
        yield b.text, f"\\frac{{({a.text})\\pi}}{{180}}"


def _times_or_ratios(a: Leaf, b: Leaf, leaf_equal: LeafEqual) -> Outcome:
    """A time is compared as written; a ratio may be reduced, or written as a fraction."""
    if letters(a.text) == letters(b.text):
        return a.unit == b.unit or not (a.unit and b.unit)
    x, y = (_RATIO.sub(r"\\frac{\1}{\2}", leaf.text) for leaf in (a, b))
    are_times = all(re.fullmatch(r"\d{1,2}:\d\d", leaf.text) for leaf in (a, b))
    return not are_times and ":" not in x + y and leaf_equal(x, y)


def _words_and_any(a: Words, b: Shape, leaf_equal: LeafEqual) -> Outcome:
    if not isinstance(b, Leaf):
        return False
    return a.key == letters(b.text + b.unit) != "" or NUMBERS.get(a.key) == b.text


def _sequences(a: Sequence, b: Sequence, leaf_equal: LeafEqual) -> Outcome:
    if (a.opening, a.closing, len(a.items)) != (b.opening, b.closing, len(b.items)):
        return False
    return _all(shapes_equal(x, y, leaf_equal) for x, y in zip(a.items, b.items))


def _unordered(a: Collection | Union, b: Collection | Union, leaf_equal: LeafEqual) -> Outcome:
    """Every item of each side equals one of the other; equality is transitive: greedy will do."""
    if max(len(a.items), len(b.items)) > MAX_ITEMS:
        return False
    if len(a.items) != len(b.items):
        return _covered(a, b, leaf_equal) and _covered(b, a, leaf_equal)
    return _covered(a, b, leaf_equal)


def _grouped(a: Collection, b: Leaf, leaf_equal: LeafEqual) -> Outcome:
    """60,120 is a number with a thousands comma, but against a list it is a list.

    A list that only repeats one value, 3/4 or 0.75, is that value.
    """
    if all(shapes_equal(item, b, leaf_equal) is True for item in a.items):
        return True
    if not _GROUPED.fullmatch(b.text):
        return False
    items = tuple(Leaf(number, b.unit) for number in b.text.split(","))
    return _unordered(a, Collection(items), leaf_equal)


def _covered(a: Collection | Union, b: Collection | Union, leaf_equal: LeafEqual) -> Outcome:
    """Whether the items of a find distinct equals in b, sharing one where b has fewer."""
    left = list(b.items)
    result: Outcome = True
    for item in a.items:
        outcomes = [shapes_equal(item, other, leaf_equal) for other in left]
        if True in outcomes:
            if len(a.items) <= len(b.items):
                left.pop(outcomes.index(True))
        elif None in outcomes:
            result = None
        else:
            return False
    return result


def _matrices(a: Matrix, b: Matrix, leaf_equal: LeafEqual) -> Outcome:
    if [len(row) for row in a.rows] != [len(row) for row in b.rows]:
        return False
    pairs = [(x, y) for r, s in zip(a.rows, b.rows) for x, y in zip(r, s)]
    return _all(shapes_equal(x, y, leaf_equal) for x, y in pairs)


def _vector(a: Matrix, b: Sequence, leaf_equal: LeafEqual) -> Outcome:
    """A column (or row) is the tuple of its entries."""
    cells = [cell for row in a.rows for cell in row]
    is_vector = len(a.rows) == 1 or all(len(row) == 1 for row in a.rows)
    if not is_vector or len(cells) != len(b.items) or (b.opening, b.closing) != ("(", ")"):
        return False
    return _all(shapes_equal(x, y, leaf_equal) for x, y in zip(cells, b.items))


def _based(a: Based, b: Based, leaf_equal: LeafEqual) -> Outcome:
    try:
        return int(a.digits, a.base) == int(b.digits, b.base)
    except ValueError:  # a digit that the base does not have
        return False


def _relations(a: Relation, b: Relation, leaf_equal: LeafEqual) -> Outcome:
    x, y = region(a), region(b)
    if x is not None and y is not None:
        return x[0] == y[0] and shapes_equal(x[1], y[1], leaf_equal)
    if len(a.signs) != 1 or len(b.signs) != 1:
        return _chains(a, b, leaf_equal)
    same = _same_sides(a, b, leaf_equal)
    flipped = Relation(b.parts[::-1], (FLIPPED.get(b.signs[0], ""),))
    if same is True or _same_sides(a, flipped, leaf_equal) is True:
        return True
    # One side of an equation is a multiple of the other: decided by the leaf function.
    for other in (b, flipped):
        if other.signs == a.signs and a.signs[0] in FLIPPED:
            return leaf_equal(*(r.parts[0] + r.signs[0] + r.parts[1] for r in (a, other)))
    return False


def _chains(a: Relation, b: Relation, leaf_equal: LeafEqual) -> Outcome:
    if a.signs == b.signs:
        return _same_sides(a, b, leaf_equal)
    if set(a.signs) == set(b.signs) == {"="} and a.parts[0] == b.parts[0]:
        return shapes_equal(shape_of(a.parts[-1]), shape_of(b.parts[-1]), leaf_equal)
    return False


def _same_sides(a: Relation, b: Relation, leaf_equal: LeafEqual) -> Outcome:
    if a.signs != b.signs:
        return False
    return _all(texts_equal(x, y, leaf_equal) for x, y in zip(a.parts, b.parts))


def _relation_and_any(a: Relation, b: Shape, leaf_equal: LeafEqual) -> Outcome:
    """x = 5 against 5; x >= 5 against an interval; 3 + 4 = 7 when every part equals b."""
    if set(a.signs) == {"="}:
        values = a.parts[1:] if is_name(a.parts[0], a.parts[-1]) else a.parts
        if len(values) > 1 and is_variable(a.parts[-1]):
            values = a.parts[:-1]
        return _all(shapes_equal(shape_of(value), b, leaf_equal) for value in values)
    as_region = region(a)
    return False if as_region is None else shapes_equal(as_region[1], b, leaf_equal)


def _assignments(a: Sequence, b: Collection, leaf_equal: LeafEqual) -> Outcome:
    """(1, 2) against x = 1, y = 2 in that order; any other list is not a tuple."""
    relations = [item for item in b.items if isinstance(item, Relation) and item.signs == ("=",)]
    names = [relation.parts[0] for relation in relations]
    is_assigned = len(relations) == len(b.items) == len(a.items) == len(set(names))
    if not is_assigned or sorted(names) != names or not all(map(is_variable, names)):
        return False
    return _all(shapes_equal(x, y, leaf_equal) for x, y in zip(a.items, relations))


def _named_point(a: Sequence, b: Leaf, leaf_equal: LeafEqual) -> Outcome:
    """(2,3) against P(2,3)."""
    is_point = re.fullmatch(r"[A-Z]'?\(.*,.*\)", b.text) and not b.unit
    return is_point is not None and shapes_equal(
        a, shape_of(b.text.lstrip("'" + b.text[0])), leaf_equal
    )


_RULES = (
    ((Leaf, Leaf), _leaves),
    ((Words, Words), lambda a, b, _: a.key == b.key),
    ((Sequence, Sequence), _sequences),
    ((Collection, Collection), _unordered),
    ((Union, Union), _unordered),
    ((Matrix, Matrix), _matrices),
    ((Based, Based), _based),
    ((Relation, Relation), _relations),
    ((Matrix, Sequence), _vector),
    ((Sequence, Collection), _assignments),
    ((Collection, Leaf), _grouped),
    ((Sequence, Leaf), _named_point),
    ((Relation, (Leaf, Sequence, Collection, Union, Matrix, Based, Words)), _relation_and_any),
    ((Words, object), _words_and_any),
)
