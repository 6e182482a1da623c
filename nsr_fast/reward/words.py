r"""What words in an answer mean: units, numbers, sets, options of a multiple choice.

Keys are words as structure.letters gives them: lower case, letters and digits only.
"""

import re

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
