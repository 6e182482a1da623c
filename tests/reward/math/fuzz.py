"""Answers made at random with a verdict known by construction: (gold, answer, are equal).

A kind returns the gold, another spelling of its value, and a near miss. `mutated` changes one sign,
digit, letter or bracket of a gold of these kinds, which always changes its value.
"""

import random
import re
from collections.abc import Callable, Iterator
from fractions import Fraction

Triple = tuple[str, str, str]
UNITS = (  # a unit, its other name, another unit
    *(("kg", "kilograms", "g"), ("cm", "centimeters", "dm"), ("L", "liters", "mL")),
    *(("h", "hours", "min"), ("ft", "feet", "in"), ("weeks", "week", "days")),
)


def fraction(rng: random.Random) -> Triple:
    value = Fraction(rng.randint(1, 60) * 2 - 1, 2 ** rng.randint(1, 4) * 3)
    top, bottom, factor = value.numerator, value.denominator, rng.randint(2, 9)
    sign = rng.choice(("", "-"))
    gold = rf"{sign}\frac{{{top}}}{{{bottom}}}"
    other = rf"\dfrac{{{sign}{top * factor}}}{{{bottom * factor}}}"
    return gold, other, rf"{sign}\frac{{{top * factor + 1}}}{{{bottom * factor}}}"


def numbers_of(rng: random.Random, count: int) -> list[int]:
    return rng.sample(range(-40, 41), count)


def braced_set(rng: random.Random) -> Triple:
    items = numbers_of(rng, 4)
    shuffled = rng.sample(items, 4)
    near = [*items[:3], items[3] + 81]
    return tuple(r"\{" + ", ".join(map(str, some)) + r"\}" for some in (items, shuffled, near))


def tuple_of(rng: random.Random) -> Triple:
    items = numbers_of(rng, 3)
    spaced = rf"\left({items[0]},\,{items[1]},\,\frac{{{items[2] * 6}}}{{6}}\right)"
    return f"({items[0]}, {items[1]}, {items[2]})", spaced, f"({items[1]}, {items[0]}, {items[2]})"


def interval(rng: random.Random) -> Triple:
    low, high = sorted(numbers_of(rng, 2))
    opening, closing = rng.choice("(["), rng.choice(")]")
    lower, upper = "<" if opening == "(" else r"\le", "<" if closing == ")" else r"\le"
    flipped = f"{'[' if opening == '(' else '('}{low}, {high}{closing}"
    return f"{opening}{low}, {high}{closing}", f"{low} {lower} x {upper} {high}", flipped


def union(rng: random.Random) -> Triple:
    low, high = sorted(numbers_of(rng, 2))
    gold = rf"(-\infty, {low}) \cup ({high}, \infty)"
    return gold, rf"x > {high} \text{{ or }} x < {low}", rf"(-\infty, {low}] \cup ({high}, \infty)"


def matrix(rng: random.Random) -> Triple:
    a, b, c, d = numbers_of(rng, 4)

    def written(*cells: object, kind: str = "pmatrix") -> str:
        rows = r"{} & {} \\ {} & {}".format(*cells)
        return rf"\begin{{{kind}}} {rows} \end{{{kind}}}"

    return written(a, b, c, d), written(a, b, c, f"{d}.0", kind="bmatrix"), written(a, c, b, d)


def linear(rng: random.Random) -> Triple:
    x, y = rng.sample(["x", "t", "m", "s", "c", "h", "g", "d", "l", "km", "bc", "ab"], 2)
    a, b, c = (rng.randint(2, 40) for _ in range(3))
    gold = f"{a}{x} - {b}{y} + {c}"
    return gold, f"{c} + {a}{x} - {b}{y}", f"{a}{x} - {b} + {c}{y}"


def product_difference(rng: random.Random) -> Triple:
    a, b, c = rng.sample("abcdmnpqrsxyz", 3)
    k = rng.choice(("", "2", "5"))
    return f"{k}{a}{b}-{b}{c}", f"{b}({k}{a}-{c})", f"{k}{a}{b}-{a}{c}"


def quadratic(rng: random.Random) -> Triple:
    p, q = (rng.choice((-1, 1)) * rng.randint(1, 12) for _ in range(2))
    q += q == -p  # no middle term would be no term
    gold = f"(x{p:+d})(x{q or 1:+d})"
    q = q or 1
    expanded = f"x^2{p + q:+d}x{p * q:+d}"
    return gold, expanded, f"x^2{p + q:+d}x{p * q + 1:+d}"


def radical(rng: random.Random) -> Triple:
    a, b = rng.randint(2, 30), rng.choice((2, 3, 5, 6, 7, 10, 11))
    return rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", rf"\sqrt{{{a * a * b + 1}}}"


def power(rng: random.Random) -> Triple:
    base, exponent, c = rng.choice((2, 3, 5, 7)), rng.randint(60, 300), rng.randint(1, 9)
    gold = f"{base}^{{{exponent}}}+{c}"
    return gold, str(base**exponent + c), f"{base}^{{{exponent}}}-{c}"


def factorial(rng: random.Random) -> Triple:
    n, c = rng.randint(24, 60), rng.randint(1, 99)
    return f"{n}!-{c}", rf"{n}\cdot {n - 1}!-{c}", f"{n}!+{c}"


def scientific(rng: random.Random) -> Triple:
    digits, exponent = rng.randint(1, 9), rng.randint(4, 12)
    value = (10 * digits + 3) * 10 ** (exponent - 1)
    near = rf"{digits}.3 \times 10^{{{exponent + 1}}}"
    return rf"{digits}.3 \times 10^{{{exponent}}}", f"{value:,}", near


def complex_number(rng: random.Random) -> Triple:
    a, b = (rng.randint(2, 30) for _ in range(2))
    return f"{a}+{b}i", f"{b}i+{a}", f"{a}-{b}i"


def logarithm(rng: random.Random) -> Triple:
    base, value, times = rng.randint(2, 9), rng.randint(10, 30), rng.randint(2, 4)
    gold = rf"{times}\log_{{{base}}} {value}"
    return gold, rf"\log_{{{base}}} {value**times}", rf"\log_{{{base}}} {value**times + 1}"


def inequality(rng: random.Random) -> Triple:
    a, sign = rng.randint(2, 40), rng.choice((">", r"\ge"))
    mirrored = "<" if sign == ">" else r"\le"
    return f"x {sign} {a}", f"{a} {mirrored} x", f"x {mirrored} {a}"


def equation(rng: random.Random) -> Triple:
    a, b, c = (rng.randint(2, 12) for _ in range(3))
    gold = f"{a}x + {b}y = {c}"
    return gold, rng.choice((f"{2 * b}y + {2 * a}x = {2 * c}", f"{a}x + {b}y - {c} = 0")), str(c)


def unit(rng: random.Random) -> Triple:
    n = rng.randint(2, 300)
    short, long, other = rng.choice(UNITS)
    return rf"{n} \text{{ {short}}}", rf"{n} \text{{ {long}}}", rf"{n} \text{{ {other}}}"


def numeral(rng: random.Random) -> Triple:
    value, base = rng.randint(30, 400), rng.choice((5, 6, 7, 8, 9))
    digits, left = "", value
    while left:
        digits, left = str(left % base) + digits, left // base
    return f"-{digits}_{{{base}}}", rf"-{digits}_{base}", f"-{digits}_{{{base + 1}}}"


KINDS: tuple[Callable[[random.Random], Triple], ...] = (
    *(fraction, braced_set, tuple_of, interval, union, matrix, linear, product_difference),
    *(quadratic, radical, power, factorial, scientific, complex_number, logarithm, inequality),
    *(equation, unit, numeral),
)
_TOKEN = re.compile(r"(\\[a-zA-Z]+(?:\{[a-z]*matrix\})?|\\.)|(.)", re.DOTALL)
_CHANGED = {"+": "-", "-": "+", "(": "[", "[": "(", ")": "]", "]": ")", "x": "y"}
_CHANGED |= {str(digit): str(digit % 9 + 1) for digit in range(10)}


def pairs(seed: int, per_kind: int) -> Iterator[tuple[str, str, bool]]:
    """Every kind, equal and unequal pairs in turn."""
    rng = random.Random(seed)
    for kind in KINDS:
        for _ in range(per_kind):
            gold, same, other = kind(rng)
            yield gold, same, True
            yield gold, other, False


def mutated(seed: int, per_kind: int) -> Iterator[tuple[str, str]]:
    """(gold, the gold with one sign, digit, letter or bracket changed)."""
    rng = random.Random(seed)
    with_brackets = (interval, union)
    for kind in KINDS:
        for _ in range(per_kind):
            gold = kind(rng)[0]
            spots = [
                m.start()
                for m in _TOKEN.finditer(gold)
                if m.group(2) in _CHANGED and (kind in with_brackets or m.group() not in "()[]")
            ]
            spot = rng.choice(spots)
            yield gold, gold[:spot] + _CHANGED[gold[spot]] + gold[spot + 1 :]
