r"""Units of measure: which words behind a number say the same, and which say something else.

A unit may be omitted; two units must agree: known ones in dimension and size, unknown words but for
words that only describe ("ways", "different ways"). Nothing is converted: 100 cm is not 1 m here.
"""

import re
from functools import lru_cache

_NAMES = (
    "m meter metre м 米, cm centimeter centimetre см 厘米, mm millimeter millimetre мм 毫米, "
    "dm decimeter decimetre дм 分米, km kilometer kilometre км 公里 千米, in inch inches, "
    "ft foot feet, yd yard, mi mile, g gram gramme gm г 克, kg kilogram kilo кг 千克 公斤, "
    "mg milligram, lb lbs pound, oz ounce, t ton tonne, s sec second с 秒, min minute мин 分钟, "
    "h hr hour ч 小时, d day 天, week wk, month mo, year yr, l liter litre л 升, "
    "ml milliliter millilitre мл 毫升, gal gallon, pt pint, qt quart, acre, "
    "dollar usd, cent, euro eur, yen jpy, rupee, yuan rmb 元, "
    "n newton, j joule, kj kilojoule, w watt, kw kilowatt, v volt, ohm, pa pascal, hz hertz, "
    "ms millisecond, kelvin, mol mole, unit, radian rad, celsius, fahrenheit, knot, am, pm"
)
UNITS = {name: names.split()[0] for names in _NAMES.split(",") for name in names.split()}
_SPEEDS = {"mph": "mi/h", "kph": "km/h", "kmph": "km/h", "fps": "ft/s", "rpm": "revolution/min"}
_SYMBOLS = (
    "m cm mm dm km in ft yd mi g kg mg lb lbs oz s sec min h hr L l mL ml gal N J kJ W kW V Pa Hz "
    "mph kph kmph"
)
SYMBOLS = frozenset(_SYMBOLS.split())  # units that are read without \text
_FILLER_WORDS = (
    "a an the of total altogether each long tall wide high deep old away about approximately "
    "roughly exactly only different distinct possible such and"
)
_FILLER = frozenset(_FILLER_WORDS.split())
_POWERS = {
    "square": 2,
    "sq": 2,
    "squared": 2,
    "cubic": 3,
    "cu": 3,
    "cubed": 3,
    "平方": 2,
    "立方": 3,
}
_TOKEN = re.compile(r"/|[^\W\d_]+(?:\.[^\W\d_]+)*|%|\^\{-?\d\}|(?<=[^\W\d_])\^?-?[23](?!\d)|\d+")
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}


def plain_unit(text: str) -> str:
    r"""\text{cm}^{2} as cm^{2}: the words behind a number, lower case."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text.replace("\\cdot", " "))
    return " ".join(text.lower().split()).rstrip(" .,;")


def units_agree(a: str, b: str) -> bool:
    """Whether two of plain_unit may stand for the same; one that is missing agrees with any."""
    if not a or not b or a == b:
        return True
    x, y = _parsed(a), _parsed(b)
    scales = x & _SCALES, y & _SCALES
    if all(scales) and scales[0] != scales[1]:
        return False
    x, y = x - _SCALES, y - _SCALES
    if x == y or not x or not y:
        return True
    fewer, more = (x, y) if len(x) <= len(y) else (y, x)
    if fewer == _UNIT or more == _UNIT:  # 5 units says no more than 5
        return True
    if any(name == "unit" for name, _ in x | y):
        return sorted(power for _, power in x) == sorted(power for _, power in y)
    is_degree = fewer == _DEGREE  # of which scale is left open
    return fewer <= more and (is_degree or not any(name in _KNOWN for name, _ in more - fewer))


_KNOWN = frozenset(UNITS.values())
_SCALES = frozenset((name, 1) for name in SCALES)
_DEGREE, _UNIT = frozenset({("degree", 1)}), frozenset({("unit", 1)})


@lru_cache(maxsize=4096)
def _parsed(unit: str) -> frozenset[tuple[str, int]]:
    """(name, exponent) of every unit or word."""
    for name, meaning in _SPEEDS.items():
        unit = re.sub(rf"\b{name}\b", meaning, unit)
    powers: dict[str, int] = {}
    sign, pending, last = 1, 1, ""
    for token in _TOKEN.findall(re.sub(r"(平方|立方)", r"\1 ", unit)):
        word = token.replace(".", "")
        if token in ("/", "per"):
            sign = -1
        elif word in ("squared", "cubed") and last:
            powers[last] *= _POWERS[word]
        elif word in _POWERS:
            pending = _POWERS[word]
        elif last and (token[0] == "^" or token in ("2", "3", "-2", "-3")):
            powers[last] *= int(token.strip("^{}"))
        elif word not in _FILLER and not (word == "in" and last):
            last = _name(word)
            powers[last] = powers.get(last, 0) + sign * pending
            pending = 1
    return frozenset(powers.items())


def _name(word: str) -> str:
    """The name of a unit, or a word without the ending of a plural."""
    for form in (word, word.removesuffix("s"), word.removesuffix("es")):
        if form in UNITS:
            return UNITS[form]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    is_plural = len(word) > 3 and word.endswith("s") and not word.endswith("ss")
    return word[:-1] if is_plural else word
