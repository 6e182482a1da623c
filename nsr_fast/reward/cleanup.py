r"""Spellings that stand for another spelling: decoration before normalisation, phrases after it.

cleaned   raw text: markdown, colours, sizes, invisible characters, ASCII signs, foreign intervals
phrased   normalised text: "answer:", \frac{\text{km}}{\text{h}}, 3\text{to}4, 10:30AM
"""

import re
import unicodedata

_DECORATION = re.compile(
    r"\\(?:text)?color\s*(?:\[[^\[\]]*\])?\{[^{}]*\}"
    r"|\\(?:bf|rm|it|tt|sf|tiny|small|normalsize|large|Large|LARGE|huge|Huge|checkmark|bigstar"
    r"|displaylimits|mathstrut|nobreak|allowbreak|protect|centering)(?![a-zA-Z])"
)
_CURRENCY = re.compile(r"[€£¥₹]|\\(?:euro|pounds|yen)(?![a-zA-Z])(?=\s*\d)")
_CHOOSE = re.compile(r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}")
_BLACKBOARD = re.compile(r"\\mathbb\s*([A-Z])(?![a-zA-Z])")
_PERIOD = re.compile(r"(?<=[.\d])\\(?:bar|dot|overbar)\s*(?:\{(\d+)\}|(\d))(?!\d)")
_DOTS = re.compile(r"((?<!\d)\d*\.\d{0,12}?)(\d{1,6}?)\2{2,}(?:\.{3,}|…|\\(?:l|c)?dots)\s*$")
_LEFT_OPEN = re.compile(r"(?:(?<=^)|(?<=\\cup)|(?<=\\in)|(?<=∪))\s*(?:\\left)?\](?=[^\[\]()]*[,;])")
_RIGHT_OPEN = re.compile(r"(?<=[^\[\]()])(?:\\right)?\[\s*(?=$|\\cup|∪)")
_ENVIRONMENT = re.compile(r"\{(?:small|b?p?small)matrix\*?\}")

_LABEL = re.compile(
    r"\\text\{(?:(?:so|thus|therefore),? )?(?:the )?(?:(?:final|correct) )?answer(?: is)?:?\}(?=.)"
    r"|\\text\{(?![^{}]*\b(?:not|except|false|wrong)\b)[^{}:]*:\}(?=[^:]+$)"
)
_UNIT_FRACTION = re.compile(r"\\frac\{(\\text\{[^{}]*\})\}\{(\\text\{[^{}]*\}(?:\^\{\d\})?)\}")
_TO = re.compile(r"(\d+)\\text\{to\}(\d+)")
_HALF_DAY = re.compile(r"(\d:\d\d)(?:\\text\{)?([AaPp])\.?[Mm]\.?\}?")
_OPTION = re.compile(r"\(\\text\{([A-Za-z])\}\)")


def cleaned(text: str) -> str:
    """The raw answer without decoration."""
    text = "".join(c for c in text if unicodedata.category(c) != "Cf").strip()
    while len(text) > 2 and text[0] == text[-1] and text[0] in "`*":
        text = text[1:-1]
    text = _CURRENCY.sub("", text.replace("¢", r"\text{ cents}"))
    text = text.replace("<=", r"\le ").replace(">=", r"\ge ").replace(r"\cr", r"\\")
    text = text.replace("∛", r"\sqrt[3] ").replace("∜", r"\sqrt[4] ")
    text = _ENVIRONMENT.sub("{pmatrix}", _DECORATION.sub(" ", text))
    text = _BLACKBOARD.sub(r"\\mathbb{\1}", _CHOOSE.sub(r"\\binom{\1}{\2}", text))
    text = _PERIOD.sub(lambda m: f"\\overline{{{m.group(1) or m.group(2)}}}", text)
    text = _DOTS.sub(r"\1\\overline{\2}", text)
    opened = _LEFT_OPEN.sub("(", text)
    return _RIGHT_OPEN.sub(")", opened) if opened.count("[") + opened.count("]") else opened


def phrased(text: str) -> str:
    """A normalised answer without the words around it."""
    text = _OPTION.sub(lambda m: f"\\text{{({m.group(1).lower()})}}", _LABEL.sub("", text, count=1))
    text = _UNIT_FRACTION.sub(r"\1/\2", _TO.sub(r"\1:\2", text))
    return _HALF_DAY.sub(lambda m: f"{m.group(1)}\\text{{{m.group(2).lower()}.m.}}", text)
