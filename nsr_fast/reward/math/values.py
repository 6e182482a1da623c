r"""What a piece of an answer is worth: the exact value of one number, the meaning of words.

rational  12, -0.5, 1,000, \frac{3}{4}, 3\frac{1}{2} as a Fraction
words     numbers, sets, options of a multiple choice; keys are words as shape.letters gives
          them: lower case, letters and digits only
"""

import re
from fractions import Fraction

MAX_DIGITS = 400
_MAX_EXPONENT = 400


def rational(text: str) -> Fraction | None:
    """The exact value of one number without percent sign, None if it is anything else."""
    if not text or len(text) > MAX_DIGITS or not (text[-1].isdigit() or text[-1] in "}."):
        return None
    unsigned = text[1:] if text[0] in "+-" else text
    for form, value_of in _FORMS:
        if match := form.fullmatch(unsigned):
            value = value_of(*match.groups())
            return -value if value is not None and text[0] == "-" else value
    return None


def _quotient(top: str, bottom: str) -> Fraction | None:
    return Fraction(top) / divisor if (divisor := Fraction(bottom)) else None


def _mixed(whole: str, top: str, bottom: str) -> Fraction | None:
    part = _quotient(top, bottom)
    return None if part is None else int(whole) + part


def _power_of_ten(factor: str | None, exponent: str) -> Fraction | None:
    power = int(exponent)
    return Fraction(factor or 1) * Fraction(10) ** power if abs(power) <= _MAX_EXPONENT else None


def _repeating(whole: str, start: str, period: str) -> Fraction:
    value = Fraction(int((whole + start + period) or 0) - int((whole + start) or 0))
    return value / (10 ** len(start) * (10 ** len(period) - 1))


_UNSIGNED = r"(?:\d+(?:\.\d*)?|\.\d+)"
_SIGNED = rf"[+-]?{_UNSIGNED}"
_FORMS = tuple(
    (re.compile(form), value_of)
    for form, value_of in (
        (rf"({_UNSIGNED})", Fraction),
        (r"(\d(?:\.\d+)?)[eE]([+-]?\d{1,3})", _power_of_ten),
        (r"(\d{1,3}(?:,\d{3})+(?:\.\d+)?)", lambda number: Fraction(number.replace(",", ""))),
        (rf"({_UNSIGNED})/({_SIGNED})", _quotient),
        (rf"\\frac\{{({_SIGNED})\}}\{{({_SIGNED})\}}", _quotient),
        (r"(\d+)\\frac\{(\d+)\}\{(\d+)\}", _mixed),
        (rf"(?:({_SIGNED})(?:\\times|\\cdot|\*))?10\^\{{([+-]?\d{{1,4}})\}}", _power_of_ten),
        (r"(\d*)\.(\d*)\\overline\{(\d+)\}", _repeating),
    )
)


SIGNS = {"percent": "%", "pct": "%", "degree": "degree", "degrees": "degree"}
BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
BASES |= {"nine": 9, "ten": 10, "twelve": 12, "sixteen": 16}

_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())}

_SAME = {
    "emptyset": "nosolution nosolutions norealsolution norealsolutions nosolutionexists none "
    "thereisnosolution therearenosolutions nosolutionsexist theemptyset",
    "doesnotexist": "dne",
    "infinity": "infinite infinitelymany infinitelymanysolutions positiveinfinity",
    "allrealnumbers": "allreals realnumbers allrealx allrealvalues thereals setofallrealnumbers",
}
_MEANING = {name: key for key, names in _SAME.items() for name in names.split()}
_ARTICLE = re.compile(r"\\text\{(?:an?|the|option|choice|answer) (?=[^{}])")
_OPTION = re.compile(
    r"(?:\\text\{\(([a-h])\)|([A-H])\)(?=.)|\(([A-H])\)(?=\d|\\(?:frac|sqrt|text)\b))(.*)",
    re.DOTALL,
)
_MODULO = re.compile(
    r"(?:[a-z]\\equiv)?(.+?)(?:\(?\\(?:pmod|bmod|mod) ?(?:\{\d+\}|\d+)\)?|\(mod ?\d+\))"
)


def meaning(key: str) -> str:
    """One key for words of the same meaning."""
    return _MEANING.get(key, key)


def without_article(text: str) -> str:
    r"""\text{an ellipse} -> \text{ellipse}; \text{option b} -> \text{b}."""
    return _ARTICLE.sub(r"\\text{", text, count=1)


def option_and_rest(text: str) -> tuple[str, str] | None:
    """("b", "12") of (B) 12, an option given with its letter; None for anything else."""
    match = _OPTION.fullmatch(text)
    if match is None:
        return None
    rest = match.group(4).strip("}: ").removeprefix(".")
    is_one = rest and not re.search(r"\([a-h]\)|\b(?:or|and)\b|^,", rest)
    return ("".join(filter(None, match.groups()[:3])).lower(), rest) if is_one else None


def without_modulus(a: str, b: str) -> tuple[str, str]:
    """15 (mod 26) against a number that says no modulus is 15."""
    matches = _MODULO.fullmatch(a), _MODULO.fullmatch(b)
    if matches[0] and not matches[1]:
        return matches[0].group(1), b
    return (a, matches[1].group(1)) if matches[1] and not matches[0] else (a, b)
