r"""One spelling for the many ways to write the same LaTeX answer; no value is decided here.

Decoration goes first (markdown, colours, invisible characters), then Unicode signs become commands,
sizes and blanks go, fractions and roots get their braces, words stay inside \text{...}; phrases go
last ("answer:", 10:30AM). Two answers with the same result are the same answer.
"""

import re
import unicodedata

from nsr_fast.reward.math.units import SYMBOLS

_SIGNS = {"÷": "/", "∕": "/", "⁄": "/", "′": "'", "∣": "|", "‖": r"\|", "ℝ": r"\mathbb{R}"}
_SIGNS |= dict.fromkeys("−–—‐", "-") | dict.fromkeys("⋅·∙", r"\cdot ")
_SIGNS |= dict.fromkeys("≤⩽", r"\le ") | dict.fromkeys("≥⩾", r"\ge ") | {"°": r"^{\circ}"}
_SIGN_NAMES = (
    "infty times ne in cup cap emptyset pm mp sqrt to langle rangle approx sim sum prod int"
)
_SIGNS |= {s: f"\\{name} " for s, name in zip("∞×≠∈∪∩∅±∓√→⟨⟩≈∼∑∏∫", _SIGN_NAMES.split())}
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho "
    "sigma sigma tau upsilon phi chi psi omega"
)
_SIGNS |= {chr(0x3B1 + i): f"\\{name} " for i, name in enumerate(_GREEK.split())}
_TRANSLATE = str.maketrans(_SIGNS)
_FRACTION = re.compile("[¼-¾⅐-⅞]")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")

_RENAMED = {"dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "leqslant": "le"}
_RENAMED |= {"geq": "ge", "geqslant": "ge", "neq": "ne", "dbinom": "binom", "tbinom": "binom"}
_RENAMED |= {"varnothing": "emptyset", "degree": "circ", "degrees": "circ", "arcsec": "asec"}
_PLAIN = {"lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "vert": "|"}
_PLAIN |= {"lvert": "|", "rvert": "|", "mid": "|", "lt": "<", "gt": ">", "textdollar": ""}
_PLAIN |= {"land": "\\text{and}", "lor": "\\text{or}", "lparen": "(", "rparen": ")"}

_NEWLINE = "\x01"  # stands for \\ while blanks and commands are cleaned
_DROPPED = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\.?"
    r"|\\(?:displaystyle|textstyle|limits|nolimits|q?quad|hfill|hline|strut|big)(?![a-zA-Z])"
    r"|\\[hv]?(?:space|phantom)\*?\{[^{}]*\}|\\[hv]?phantom\s*[^{\s]|\\[!;:>]|~|\\(?=\s|$)"
)
_WORD_FONT = re.compile(r"\\(?:text|textrm|textbf|textit|textnormal|mathrm|mbox|hbox)\b")
_FONT = re.compile(
    r"\\(?:text(?:rm|bf|it|sf|tt|normal)?|math(?:rm|bf|it|sf|tt)|boldsymbol|bm|mbox|hbox|emph"
    r"|operatorname\*?|underline|mathop)\s*\{([^{}]*)\}"
)
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\{,\}|,\\!|\\,|\\ | )\d{3})+(?![\d])")
_FRACTION_THOUSANDS = re.compile(r"(\\frac\{(?:[^{}]*\}\{)?)(\d{1,3}(?:,\d{3})+)(?=\})")
_LETTERS = re.compile(r"[A-Z](?:(?:, *(?:and |or )?| and | or )[A-Z])+")
_MIXED = re.compile(r"(?<![\d.])(\d+) +(\d+) */ *(\d+)")
_FUNCTION_NAMES = (
    "sin cos tan cot sec csc arcsin arccos arctan arccot arccsc sinh cosh tanh ln log exp lg max "
    "min gcd lcm det"
)
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_COMMAND_WORDS = _FUNCTIONS | {"pi", "infty", "sqrt", "frac", "cup", "theta"}
_SHORT_WORD_LIST = (
    "or and no yes odd cm mm km kg ml mi ft in day hr min sec mph dne nor the one two six ten red "
    "all non"
)
_SHORT_WORDS = frozenset(_SHORT_WORD_LIST.split())
_WORDS_ONLY = _SHORT_WORDS - SYMBOLS
_VOWELLESS = re.compile("[b-df-hj-np-tv-xz]{4}|[w-z]{4}")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
# Letters of other scripts are words even alone: Greek ones have become commands before.
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ -]+[^\W\d_]{2,})*|[^\W\d_\x00-\x7f]")

_DECORATION = re.compile(
    r"\\(?:text)?color\s*(?:\[[^\[\]]*\])?\{[^{}]*\}"
    r"|\\(?:bf|rm|it|tt|sf|tiny|small|normalsize|large|Large|LARGE|huge|Huge|checkmark|bigstar"
    r"|displaylimits|mathstrut|nobreak|allowbreak|protect|centering)(?![a-zA-Z])"
)
_CURRENCY = re.compile(r"[€£¥₹]|\\(?:euro|pounds|yen)(?![a-zA-Z])(?=\s*\d)")
_AMOUNT = r"\s*(\d[\d.,{}!\\ ]*|\\[dt]?frac\s*(?:\d\d|\{\d+\}\s*\{\d+\}))\s*"
_SIGN = r"(\\\$|[€£¥₹]|\\(?:euro|pounds|yen)(?![a-zA-Z]))"
_MONEY = re.compile(rf"([-+−]?)\s*{_SIGN}{_AMOUNT}|([-+−]?){_AMOUNT}{_SIGN}")
_MONEY_NAMES = {"\\$": "dollars", "€": "euros", "\\euro": "euros", "£": "pounds", "¥": "yen"}
_MONEY_NAMES |= {"\\pounds": "pounds", "\\yen": "yen", "₹": "rupees"}
_UNEQUAL = re.compile(r"(?<![\d)\]}])!=|(?<=\s)!=")  # behind a number it may be a factorial
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
_UNIT_BEHIND = re.compile(
    r"([+-]?(?:\d[\d.,/ ]*|\d*\s*\\frac\s*\{\d+\}\s*\{\d+\}))\s+"
    r"([a-zA-Z]+)((?:\^\{?[23]\}?)?)(?:\s*/\s*([a-zA-Z]+)((?:\^\{?[23]\}?)?))?\.?"
)
_OPTION = re.compile(r"\(\\text\{([A-Za-z])\}\)")


def normalised(text: str) -> str:
    r"""The canonical spelling: no blanks but one after a command and inside \text{...}."""
    text = _cleaned(text)
    text = _SUPERSCRIPT.sub(lambda m: "^{" + _nfkc(m.group()).replace("−", "-") + "}", text)
    text = _SUBSCRIPT.sub(lambda m: "_{" + _nfkc(m.group()) + "}", text)
    text = _nfkc(_FRACTION.sub(_vulgar_fraction, text).translate(_TRANSLATE))
    text = re.sub(r"\\\\(?:\[[^\[\]]*\])?", _NEWLINE, text.replace("−", "-"))
    if "\\begin" not in text:
        text = text.replace(_NEWLINE, "\\")
    text = text.replace("\\$", "").replace("$", "").replace("\\%", "%").replace("**", "^")
    text = _THOUSANDS.sub(lambda m: re.sub(r"\D", "", m.group()), text).replace("\\,", " ")
    text = _COMMAND.sub(_renamed, _DROPPED.sub(" ", text))
    text = _lone_unit(text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _FRACTION_THOUSANDS.sub(lambda m: m.group(1) + m.group(2).replace(",", ""), text)
    text = _words_as_text(_without_fonts(text))
    text = re.sub(r"(?<![\^_}a-zA-Z])\{(\\text\{[^{}]*\}|[0-9A-Z]+(?=\}_))\}", r"\1", text)
    text = re.sub(r"\\frac +(\d) +(\d)", r"\\frac{\1}{\2}", _braced_scripts(text))
    text = re.sub(r"(?<=\d) +(?=\d)", ",", text)
    text = _phrased(_braced(_packed(text)).removeprefix("\\approx"))
    return text.replace(_NEWLINE, "\\\\").rstrip(".,;: ")


def _nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _vulgar_fraction(match: re.Match) -> str:
    top, _, bottom = _nfkc(match.group()).partition("⁄")
    return f"\\frac{{{top}}}{{{bottom}}}"


def _renamed(match: re.Match) -> str:
    name = match.group(1)
    return _PLAIN[name] + " " if name in _PLAIN else "\\" + _RENAMED.get(name, name)


def _without_fonts(text: str) -> str:
    r"""Fonts go from around mathematics and become \text around words, from the inside out."""
    for _ in range(4):
        replaced = _FONT.sub(_without_font, text)
        if replaced == text:
            break
        text = replaced
    return text.replace("\\TEXT", "\\text")


def _without_font(match: re.Match) -> str:
    inner = match.group(1).strip()
    if _LETTERS.fullmatch(inner):
        return re.sub(r"[, ]*(and|or) ", r"\\TEXT{\1}", inner)
    is_word_font = _WORD_FONT.match(match.group())
    is_seconds = inner == "sec" and match.string[: match.start()].rstrip("\\, ")[-1:].isdigit()
    if inner in _FUNCTIONS and not (is_word_font and (inner == "min" or is_seconds)):
        return f"\\{inner} "
    has_word = re.search("[a-zA-Z]" if is_word_font else "[a-zA-Z]{2,}", inner)
    is_number_or_formula = any(c.isdigit() or c in "\\=_<>+" for c in inner.partition("^")[0])
    if not has_word or is_number_or_formula or inner in ("e", "i", "d"):
        after_script = match.string[: match.start()].endswith(("^", "_"))
        return f"{{{inner}}}" if after_script else f" {inner} "
    return ",".join(f"\\TEXT{{{part}}}" for part in inner.split(","))


def _words_as_text(text: str) -> str:
    r"""Plain words outside commands become \text{...}; function names become commands."""
    pieces = re.split(r"(\\text\{[^{}]*\}|\\(?:begin|end)\{[^{}]*\}|\\[a-zA-Z]+)", text)
    for i in range(0, len(pieces), 2):
        pieces[i] = _WORDS.sub(_word_as_text, pieces[i])
    return "".join(pieces)


def _word_as_text(match: re.Match) -> str:
    words = match.group()
    if words in _COMMAND_WORDS:
        return f"\\{words} "
    # A hyphen between products is a minus sign: ab-cd.
    is_formula = all(_is_product(word.strip()) for word in words.split("-"))
    is_unit = words in SYMBOLS and _has_unit_place(match)
    if is_formula and not is_unit:
        return words
    return f"\\text{{{words}}}"


def _is_product(word: str) -> bool:
    """Two or three letters in a row are variables (xy, abc, AB) unless they are a word; so are a
    run of the alphabet (abcd) and letters without a vowel (wxzy)."""
    is_short = len(word) <= 3 and word.isascii() and (word.islower() or word.isupper())
    is_long = len(word) > 3 and (word in _ALPHABET or _VOWELLESS.fullmatch(word))
    return bool(is_long or (is_short and word not in _WORDS_ONLY))


def _has_unit_place(match: re.Match) -> bool:
    """A unit stands behind a value and, if it is short, a blank: 7km is a product, dm alone too."""
    before = match.string[: match.start()]
    is_glued = len(match.group()) == 2 and before[-1:].isdigit()
    return not is_glued and before.rstrip()[-1:] not in ("", *"+-*/=(,^_")


def _lone_unit(text: str) -> str:
    r"""5 m/s -> 5\text{m}/\text{s}; what stands behind a lone number and a blank is its unit."""
    match = _UNIT_BEHIND.fullmatch(text.strip())
    number, *units = match.groups(default="") if match else ("", "")
    if not match or not all(unit in SYMBOLS for unit in units[::2] if unit):
        return text
    over = f"/\\text{{{units[2]}}}{units[3]}" if units[2] else ""
    return f"{number}\\text{{{units[0]}}}{units[1]}{over}"


def _braced_scripts(text: str) -> str:
    """x^10 -> x^{10}, 204_5 -> 204_{5}; after \\log a subscript is one digit, as TeX has it."""
    text = re.sub(r"(\\log *_) *(\d)", r"\1{\2}", text)
    return re.sub(r"([_^]) *(-?\d+|[a-zA-Z]|\\(?!text|frac|sqrt)[a-zA-Z]+)", r"\1{\2}", text)


def _packed(text: str) -> str:
    r"""Blanks removed, but for one after a command before a letter, and inside \text{...}."""
    pieces = re.split(r"(\\text\{[^{}]*\})", text)
    for i, piece in enumerate(pieces):
        if i % 2:
            words = " ".join(piece[6:-1].split())
            pieces[i] = f"\\text{{{words.lower() if len(words) > 1 else words}}}"
        else:
            kept = re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])", "\\1\0", piece)
            pieces[i] = re.sub(r"\s+", "", kept).replace("\0", " ")
    return "".join(pieces)


def _braced(text: str) -> str:
    r"""\frac12 -> \frac{1}{2}, \frac\pi2 -> \frac{\pi}{2}, \sqrt2 -> \sqrt{2}."""
    one = r"([0-9a-zA-Z]|\\[a-zA-Z]+) ?"
    text = re.sub(rf"\\frac ?{one}(?=\S)", r"\\frac{\1}", text)
    text = re.sub(rf"(\\frac\{{[^{{}}]*(?:\{{[^{{}}]*\}}[^{{}}]*)*\}}) ?{one}", r"\1{\2}", text)
    text = re.sub(r"\\sqrt\(([^()]*)\)", r"\\sqrt{\1}", text)
    root = r"(\\sqrt(?:\[\d+\])?) ?(\d+|[a-zA-Z]|\\[a-zA-Z]+)"
    return re.sub(root, r"\1{\2}", text)


def _cleaned(text: str) -> str:
    """The raw answer without decoration."""
    text = "".join(c for c in text if unicodedata.category(c) != "Cf").strip()
    while len(text) > 2 and text[0] == text[-1] and text[0] in "`*":
        text = text[1:-1]
    if money := _MONEY.fullmatch(text.rstrip(".")):
        sign, name, amount, *behind = money.groups(default="")
        sign, amount, name = sign + behind[0], amount + behind[1], name + behind[2]
        text = f"{sign}{amount}\\text{{ {_MONEY_NAMES[name]}}}"
    text = _CURRENCY.sub("", text.replace("¢", r"\text{ cents}"))
    text = _UNEQUAL.sub(r"\\ne ", text)
    text = text.replace("<=", r"\le ").replace(">=", r"\ge ").replace(r"\cr", r"\\")
    text = text.replace("∛", r"\sqrt[3] ").replace("∜", r"\sqrt[4] ")
    text = _ENVIRONMENT.sub("{pmatrix}", _DECORATION.sub(" ", text))
    text = _BLACKBOARD.sub(r"\\mathbb{\1}", _CHOOSE.sub(r"\\binom{\1}{\2}", text))
    text = _PERIOD.sub(lambda m: f"\\overline{{{m.group(1) or m.group(2)}}}", text)
    text = _DOTS.sub(r"\1\\overline{\2}", text)
    opened = _LEFT_OPEN.sub("(", text)
    return _RIGHT_OPEN.sub(")", opened) if opened.count("[") + opened.count("]") else opened


def _phrased(text: str) -> str:
    """A normalised answer without the words around it."""
    text = _OPTION.sub(lambda m: f"\\text{{({m.group(1).lower()})}}", _LABEL.sub("", text, count=1))
    text = _UNIT_FRACTION.sub(r"\1/\2", _TO.sub(r"\1:\2", text))
    return _HALF_DAY.sub(lambda m: f"{m.group(1)}\\text{{{m.group(2).lower()}.m.}}", text)
