r"""Equality of two answer shapes; formulas are decided by a function for leaves.

    True, False, or None where the leaf function cannot tell

Symmetric but for one rule: a gold that is an equation, x^2 + y^2 = 49, accepts only equations;
the answer m + n = 15 may stand for 15. Policy: units, degree and currency signs may be omitted; a
percentage may stand for its number or its hundredth; x = 5 and 5 are the same answer; an
inequality equals its interval.
"""

import re
from dataclasses import dataclass, replace

from nsr_fast.reward.math.leaves import (
    LeafEqual,
    Outcome,
    all_true,
    any_true,
    leaves_equal,
    words_equal,
)
from nsr_fast.reward.math.regions import FLIPPED, has_letter, is_name, is_quantity, region
from nsr_fast.reward.math.shape import (
    ABOUT,
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
from nsr_fast.reward.math.units import units_agree
from nsr_fast.reward.math.values import option_and_rest, without_modulus

MAX_ITEMS = 64

_SETS = re.compile(r"\\(?:setminus|backslash|cap|mathbb|emptyset)(?![a-zA-Z])")
_GROUPED = re.compile(r"-?\d{1,3}(?:,\d{3})+")


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


def texts_equal(a: str, b: str, leaf_equal: LeafEqual, *, is_gold: bool = False) -> Outcome:
    """shapes_equal of two normalised texts; `is_gold` when a says what was asked for."""
    if a == b:
        return True
    a, b = without_modulus(a, b)
    if (outcome := _options(a, b, leaf_equal)) is not None:
        return outcome
    outcome = shapes_equal(_asked(shape_of(a)) if is_gold else shape_of(a), shape_of(b), leaf_equal)
    # Sets such as \mathbb{R} \setminus \{0\} have no shape here; algebra may know them.
    is_undecided = outcome is False and (_SETS.search(a) or _SETS.search(b))
    return leaf_equal(a, b) if is_undecided else outcome


@dataclass(frozen=True, slots=True)
class _Equation(Relation):
    """An equation that was asked for: its right side alone is no answer."""


def _asked(shape: Shape) -> Shape:
    """The shape of a gold, its equations marked."""
    if isinstance(shape, Relation):
        left = shape.parts[0]
        is_equation = set(shape.signs) == {"="} and has_letter(left) and not is_quantity(left)
        return _Equation(shape.parts, shape.signs) if is_equation else shape
    if isinstance(shape, Collection | Union | Sequence):
        return replace(shape, items=tuple(map(_asked, shape.items)))
    return shape


def _options(a: str, b: str, leaf_equal: LeafEqual) -> Outcome:
    """True when one is an option with its letter, (B) 12, and the other its letter or value."""
    given = option_and_rest(a), option_and_rest(b)
    if (given[0] is None) == (given[1] is None):
        return None
    (letter, rest), other = (given[0], b) if given[0] else (given[1], a)
    is_letter = letters(other) == letter and len(other) <= len("\\text{(b)}")
    return True if is_letter or texts_equal(rest, other, leaf_equal) is True else None


def _single(shape: Shape) -> Shape:
    """A set of one element stands for the element."""
    is_single = isinstance(shape, Collection | Union) and len(shape.items) == 1
    return shape.items[0] if is_single else shape


def _sequences(a: Sequence, b: Sequence, leaf_equal: LeafEqual) -> Outcome:
    if (a.opening, a.closing, len(a.items)) != (b.opening, b.closing, len(b.items)):
        return False
    return all_true(shapes_equal(x, y, leaf_equal) for x, y in zip(a.items, b.items))


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
    return all_true(shapes_equal(x, y, leaf_equal) for x, y in pairs)


def _vector(a: Matrix, b: Sequence, leaf_equal: LeafEqual) -> Outcome:
    """A column (or row) is the tuple of its entries."""
    cells = [cell for row in a.rows for cell in row]
    is_vector = len(a.rows) == 1 or all(len(row) == 1 for row in a.rows)
    if not is_vector or len(cells) != len(b.items) or (b.opening, b.closing) != ("(", ")"):
        return False
    return all_true(shapes_equal(x, y, leaf_equal) for x, y in zip(cells, b.items))


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
    return all_true(texts_equal(x, y, leaf_equal) for x, y in zip(a.parts, b.parts))


def _relation_and_any(a: Relation, b: Shape, leaf_equal: LeafEqual) -> Outcome:
    """x = 5 against 5; x >= 5 against an interval; 3 + 4 = 7 when every part equals b."""
    if set(a.signs) <= {"=", ABOUT}:
        return _values(a, b, leaf_equal)
    as_region = region(a)
    return False if as_region is None else shapes_equal(as_region[1], b, leaf_equal)


def _values(a: Relation, b: Shape, leaf_equal: LeafEqual) -> Outcome:
    r"""Every value of a chain of equalities; in \pi \approx 3.14 either, if that is no lie."""
    parts, signs = list(a.parts), list(a.signs)
    if is_name(parts[0], parts[-1]):
        parts, signs = parts[1:], signs[1:]
    if len(parts) > 1 and is_variable(parts[-1]):
        parts, signs = parts[:-1], signs[:-1]
    groups, claims = [[parts[0]]], []
    for sign, before, part in zip(signs, parts, parts[1:]):
        if sign == ABOUT:
            claims.append(_is_about(before, part, leaf_equal))
            groups.append([part])
        else:
            groups[-1].append(part)
    hits = [all_true(shapes_equal(shape_of(p), b, leaf_equal) for p in group) for group in groups]
    return all_true((any_true(hits), *claims))


def _is_about(x: str, y: str, leaf_equal: LeafEqual) -> Outcome:
    """Whether y is x rounded, or x is y rounded."""
    a, b = shape_of(x), shape_of(y)
    if not isinstance(a, Leaf) or not isinstance(b, Leaf) or not units_agree(a.unit, b.unit):
        return False
    return any_true(leaf_equal(f"{ABOUT}{p.text}", q.text) for p, q in ((a, b), (b, a)))


def _assignments(a: Sequence, b: Collection, leaf_equal: LeafEqual) -> Outcome:
    """(1, 2) against x = 1, y = 2 in that order; any other list is not a tuple."""
    relations = [item for item in b.items if isinstance(item, Relation) and item.signs == ("=",)]
    names = [relation.parts[0] for relation in relations]
    is_assigned = len(relations) == len(b.items) == len(a.items) == len(set(names))
    if not is_assigned or sorted(names) != names or not all(map(is_variable, names)):
        return False
    return all_true(shapes_equal(x, y, leaf_equal) for x, y in zip(a.items, relations))


def _named_point(a: Sequence, b: Leaf, leaf_equal: LeafEqual) -> Outcome:
    """(2,3) against P(2,3)."""
    is_point = re.fullmatch(r"[A-Z]'?\(.*,.*\)", b.text) and not b.unit
    return is_point is not None and shapes_equal(
        a, shape_of(b.text.lstrip("'" + b.text[0])), leaf_equal
    )


_RULES = (
    ((Leaf, Leaf), leaves_equal),
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
    ((_Equation, (Leaf, Sequence, Collection, Union, Matrix, Based, Words)), lambda *_: False),
    ((Relation, (Leaf, Sequence, Collection, Union, Matrix, Based, Words)), _relation_and_any),
    ((Words, object), words_equal),
)
