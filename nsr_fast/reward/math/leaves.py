r"""Equality of what has no shape: formulas with their units, and words.

A function decides pairs of formulas: True, False, or None where it cannot tell.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from nsr_fast.reward.math.shape import Leaf, Shape, Words, letters
from nsr_fast.reward.math.units import SCALES, units_agree
from nsr_fast.reward.math.values import NUMBERS, rational

Outcome = bool | None
LeafEqual = Callable[[str, str], Outcome]

_RATIO = re.compile(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)")
_OPERATOR = re.compile(r"[-+*/^<>=|!]|\\(?:cdot|times)")
_SYMBOL = re.compile(r"[^a-z^{}\d]")


def rational_leaves(a: str, b: str) -> Outcome:
    """The leaf function that needs no algebra: equal texts and exact rationals, else None."""
    if a == b:
        return True
    x, y = rational(a), rational(b)
    return None if x is None or y is None else x == y


def all_true(outcomes: Iterable[Outcome], end: bool = False) -> Outcome:
    """False if any is False, else None if any is None, else True; stops at the first False."""
    result: Outcome = not end
    for outcome in outcomes:
        if outcome is end:
            return end
        result = None if outcome is None else result
    return result


any_true = partial(all_true, end=True)  # True if any is, else None if any is, else False


def leaves_equal(a: Leaf, b: Leaf, leaf_equal: LeafEqual) -> Outcome:
    """Two formulas by their values, with units that agree."""
    if not units_agree(a.unit, b.unit):
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
    if a.unit and not b.unit and b.text.endswith(symbol := _SYMBOL.sub("", a.unit)):
        yield f"{a.text}{symbol}", b.text  # 5 m, the unit, is written like 5m, the product
    if a.unit == "degree" != b.unit and "\\pi" in b.text:
        yield b.text, f"\\frac{{({a.text})\\pi}}{{180}}"


def _times_or_ratios(a: Leaf, b: Leaf, leaf_equal: LeafEqual) -> Outcome:
    """A time is compared as written; a ratio may be reduced, or written as a fraction."""
    if letters(a.text) == letters(b.text):
        return a.unit == b.unit or not (a.unit and b.unit)
    x, y = (_RATIO.sub(r"\\frac{\1}{\2}", leaf.text) for leaf in (a, b))
    are_times = all(re.fullmatch(r"\d{1,2}:\d\d", leaf.text) for leaf in (a, b))
    return not are_times and ":" not in x + y and leaf_equal(x, y)


def words_equal(a: Words, b: Shape, leaf_equal: LeafEqual) -> Outcome:
    """Words against a formula: the same letters, or a number in words."""
    if not isinstance(b, Leaf):
        return False
    is_word = not _OPERATOR.search(b.text) and a.key == letters(b.text + b.unit) != ""
    return is_word or NUMBERS.get(a.key) == b.text
