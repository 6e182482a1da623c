r"""What a piece of an answer is worth: the exact value of one number, the meaning of words.

rational  12, -0.5, 1,000, \frac{3}{4}, 3\frac{1}{2} as a Fraction
words     units, numbers, sets, options of a multiple choice; keys are words as shape.letters gives
          them: lower case, letters and digits only
"""

import re
from fractions import Fraction

MAX_DIGITS = 400
_MAX_EXPONENT = 400

_UNSIGNED = r"(?:\d+(?:\.\d*)?|\.\d+)"
_SIGNED = rf"[+-]?{_UNSIGNED}"
_NUMBER = re.compile(rf"{_SIGNED}")
_POWER_OF_TEN = re.compile(r"([+-]?\d(?:\.\d+)?)[eE]([+-]?\d{1,3})")
_GROUPED = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+(?:\.\d+)?)")
_SLASH = re.compile(rf"({_SIGNED})/({_SIGNED})")
_FRAC = re.compile(rf"([+-]?)\\frac\{{({_SIGNED})\}}\{{({_SIGNED})\}}")
_MIXED = re.compile(r"([+-]?)(\d+)\\frac\{(\d+)\}\{(\d+)\}")
_SCIENTIFIC = re.compile(
    rf"({_SIGNED})(?:\\times|\\cdot|\*)10\^\{{([+-]?\d{{1,4}})\}}|([+-]?)10\^\{{([+-]?\d{{1,4}})\}}"
)
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\overline\{(\d+)\}")


def rational(text: str) -> Fraction | None:
    """The exact value of one number without percent sign, None if it is anything else."""
    if not text or len(text) > MAX_DIGITS or not (text[-1].isdigit() or text[-1] in "}."):
        return None
    if _NUMBER.fullmatch(text):
        return Fraction(text)
    if match := _POWER_OF_TEN.fullmatch(text):
        return _power_of_ten(match.group(1), int(match.group(2)))
    if match := _GROUPED.fullmatch(text):
        return Fraction(match.group(1) + match.group(2).replace(",", ""))
    if match := _SLASH.fullmatch(text):
        return _quotient("", *match.groups())
    if match := _FRAC.fullmatch(text):
        return _quotient(*match.groups())
    if match := _MIXED.fullmatch(text):
        return _mixed(*match.groups())
    if match := _SCIENTIFIC.fullmatch(text):
        factor, exponent = match.group(1), match.group(2)
        if factor is None:
            factor, exponent = match.group(3) + "1", match.group(4)
        return _power_of_ten(factor, int(exponent))
    if match := _REPEATING.fullmatch(text):
        return _repeating(*match.groups())
    return None


def _quotient(sign: str, top: str, bottom: str) -> Fraction | None:
    divisor = Fraction(bottom)
    if divisor == 0:
        return None
    value = Fraction(top) / divisor
    return -value if sign == "-" else value


def _mixed(sign: str, whole: str, top: str, bottom: str) -> Fraction | None:
    part = _quotient("", top, bottom)
    if part is None:
        return None
    value = int(whole) + part
    return -value if sign == "-" else value


def _power_of_ten(factor: str, exponent: int) -> Fraction | None:
    return Fraction(factor) * Fraction(10) ** exponent if abs(exponent) <= _MAX_EXPONENT else None


def _repeating(sign: str, whole: str, start: str, period: str) -> Fraction:
    value = Fraction(int((whole + start + period) or 0) - int((whole + start) or 0))
    value /= 10 ** len(start) * (10 ** len(period) - 1)
    return -value if sign == "-" else value


UNITS: dict[str, str] = {}
for _names in (
    "m meter meters metre metres",
    "cm centimeter centimeters",
    "mm millimeter millimeters",
    "km kilometer kilometers",
    "in inch inches",
    "ft foot feet",
    "mi mile miles",
    "g gram grams",
    "kg kilogram kilograms",
    "s sec second seconds",
    "min minute minutes",
    "h hr hour hours",
    "day days",
    "dollar dollars",
    "cent cents",
):
    UNITS |= dict.fromkeys(_names.split(), _names.split()[0])

SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
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
_OPTION = re.compile(r"(?:\\text\{\(([a-h])\)|([A-H])\)(?=.))(.*)", re.DOTALL)
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
    rest = match.group(3).strip("}: ").removeprefix(".")
    is_one = rest and not re.search(r"\([a-h]\)|\b(?:or|and)\b|^,", rest)
    return ((match.group(1) or match.group(2)).lower(), rest) if is_one else None


def without_modulus(a: str, b: str) -> tuple[str, str]:
    """15 (mod 26) against a number that says no modulus is 15."""
    matches = _MODULO.fullmatch(a), _MODULO.fullmatch(b)
    if matches[0] and not matches[1]:
        return matches[0].group(1), b
    return (a, matches[1].group(1)) if matches[1] and not matches[0] else (a, b)
