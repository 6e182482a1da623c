r"""Static bounds: which formulas are too large to compute with, decided before computing.

A power tower, a factorial of a billion or thousands of brackets would cost a worker its whole
deadline; what fails here is compared as text only. Linear in the length of the formula.
"""

import re

MAX_DEPTH = 24
MAX_BARS = 32
MAX_TOKENS = 1200
MAX_DIGITS = 400
MAX_EXPONENT = 100_000
MAX_TOWER_EXPONENT = 10_000
MAX_FACTORIAL = 5_000
MAX_BINOMIAL = 20_000

_BRACKET = re.compile(r"\\[{}]|\\(?:begin|end)\{[^{}]*\}|[(\[{}\])]")
_NUMBER = re.compile(r"\d+")
_BINOMIAL = re.compile(r"\\binom(?=\{)|\\choose")


def complexity(text: str) -> str | None:
    """Why a normalised answer must not be computed with; None when it may be."""
    if any(len(digits) > MAX_DIGITS for digits in _NUMBER.findall(text)):
        return f"a number of more than {MAX_DIGITS} digits"
    if len(re.findall(r"\\[a-zA-Z]+|\d+|\S", text)) > MAX_TOKENS:
        return f"more than {MAX_TOKENS} symbols"
    if _depth(text) > MAX_DEPTH:
        return f"brackets more than {MAX_DEPTH} deep"
    if text.count("|") > MAX_BARS:
        return f"more than {MAX_BARS} bars"
    factorials = ((text[: m.start()], m.group()) for m in re.finditer("!+", text))
    if not (all(_factorial_is_small(*f) for f in factorials) and _binomials_are_small(text)):
        return f"a factorial above {MAX_FACTORIAL} or a binomial above {MAX_BINOMIAL}"
    return None if _powers_are_small(text) else "a power too large"


def _depth(text: str) -> int:
    depth = deepest = 0
    for match in _BRACKET.finditer(text):
        token = match.group()
        if token[-1] in "([{" or token.startswith("\\begin"):
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def _factorial_is_small(before: str, signs: str) -> bool:
    """Of what stands before the signs: a bracketed group, or the digits at its end."""
    if len(signs) > 2:
        return False
    if before.endswith((")", "]", "}")):
        group = _group_before(before)
        return not re.search(r"[!^]", group) and _largest(group) <= MAX_FACTORIAL
    digits = re.search(r"\d*$", before).group()
    return int(digits or 0) <= (MAX_FACTORIAL if signs == "!" else 6)


def _binomials_are_small(text: str) -> bool:
    for match in _BINOMIAL.finditer(text):
        upper = _group_after(text, match.end())
        if not upper.startswith("{"):
            return _largest(text) <= MAX_BINOMIAL and "^" not in text
        lower = _group_after(text, match.end() + len(upper))
        if re.search(r"[!^]", upper + lower) or _product(upper) > MAX_BINOMIAL:
            return False
    return True


def _group_before(text: str) -> str:
    """The bracket group that text ends with."""
    depth = 0
    for index in range(len(text) - 1, -1, -1):
        depth += (text[index] in ")]}") - (text[index] in "([{")
        if depth == 0:
            return text[index:]
    return text


def _largest(text: str) -> int:
    return max((int(digits) for digits in _NUMBER.findall(text)), default=0)


def _product(text: str) -> int:
    product = 1
    for digits in _NUMBER.findall(text):
        product = min(product * max(int(digits), 1), 10**12)
    return product


def _powers_are_small(text: str) -> bool:
    """Bounds every exponent, the tower in it, and the power that a bracketed base holds."""
    for match in re.finditer(r"\^", text):
        exponent = _group_after(text, match.end())
        if text[match.end() + len(exponent) :].startswith("^"):
            return False
        carets = exponent.count("^")
        if carets > 1 or not _exponent_is_small(exponent, carets):
            return False
        before = text[: match.start()]
        if before.endswith((")", "}", "]")):
            base = _group_before(before)
            if _power_within(base) * _product(exponent) > MAX_EXPONENT:
                return False
    return True


def _power_within(base: str) -> int:
    """An upper bound of the power that a bracketed base holds: its exponents multiplied."""
    power = 1
    for match in re.finditer(r"\^", base):
        exponent = _group_after(base, match.end())
        power = min(power * (_tower(exponent) if "^" in exponent else _product(exponent)), 10**12)
    return power


def _group_after(text: str, start: int) -> str:
    """The braced group at start, braces included; a single character when there is none."""
    if not text.startswith("{", start):
        return text[start : start + 1]
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return text[start : index + 1]
    return text[start:]


def _exponent_is_small(exponent: str, carets: int) -> bool:
    if "!" in exponent and _largest(exponent) > 7:
        return False
    if not carets:
        return _product(exponent) <= MAX_EXPONENT
    return _tower(exponent) <= MAX_TOWER_EXPONENT


def _tower(exponent: str) -> int:
    """An upper bound of an exponent that holds one power: its numbers to its largest exponent."""
    head, _, tail = exponent.partition("^")
    base, power = _product(head) if _NUMBER.search(head) else 3, max(_product(tail), 1)
    return 10**12 if power > 40 or base > 10**6 else min(max(base, 2) ** power, 10**12)
