r"""What a gold text says, or why it is none: sentences, solutions and damaged text of data sets.

    "There are 18 ways."     -> 18             "7*6=42\n#### 42"  -> 42
    "\x0crac{1}{2}", "N/A"   -> no gold: a lost escape, a placeholder

Only what leaves one reading is read; the rest is refused, for a wrong gold trains against right
answers in every round.
"""

import html
import json
import re
from dataclasses import dataclass

from nsr_fast.data.boxed import extract_boxed
from nsr_fast.reward.math.values import NUMBERS, meaning

MAX_GOLD_CHARS = 2000

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")
_ESCAPED = re.compile(  # what \times and \neq become when their backslashes are read as escapes
    r"\t(?=imes|ext|heta|an(?![a-z])|au|o(?![a-z])|frac|riangle|binom|ilde|op)"
    r"|\n(?=eq?(?![a-z])|u(?![a-z])|abla|eg(?![a-z])|mid|i(?![a-z])|ot(?:in)?(?![a-z]))"
)
_LOST = re.compile(
    r"(?<![\\a-zA-Z])(?:rac|inom|ext|oxed|qrt|egin|verline|d?frac|tfrac|dbinom|binom|text|mathrm|"
    r"boxed|overline|mathbb)\s*\{|(?<=[\d\s}])(?:imes|heta|eq)(?=[\d\s\\{]|$)|\ufffd"
)
_ENTITY = re.compile(r"&(?:lt|gt|le|ge|amp|nbsp|minus|times|pi|radic|deg|quot|#\d+|#x[\da-f]+);")
_PREFIX = re.compile(r"(?i)(?:the )?(?:final |correct )?answer\s*(?:is\b:?|:|=)\s*(?=\S)")
_PLACEHOLDER = re.compile(
    r"n/a|n\.a\.?|not (?:available|given|applicable|known|provided|found|sure)|tb[dac]|to-?do"
    r"|null|nan|nil|unknown"
    r"|(?:(?:the )?(?:answer|solution|proof|detail)s? )?(?:is |are )?omitted|idk|q\.?e\.?d"
    r"|(?:please )?(?:see|refer to|cf\.?|check|consult) .+|(?:by |a |the )?proofs?|proof[ :.].+"
    r"|(?:we |i |it )(?:am not|do not|don't|dont|cannot|can't|could not) .+|missing"
    r"|no (?:final )?answer.*"
    r"|(?:answers?|results?) (?:may |will |can )?var(?:y|ies)|var(?:y|ies)|pending|placeholder"
    r"|to be (?:determined|announced|proved|proven|shown|done|added)|(?:the |your )?answer"
    r"|(?:the )?solutions?|(?:the |no )?solutions? (?:provided|given|available|below|above)"
    r"|undetermined|open[- ]ended"
    r"|left (?:to|as|for) .+|as (?:shown|stated|seen|above).*|.*\b(?:proof|qed)\b[^\d$\\]*"
    r"|(?:prove|show) that .+|[?.…_*#~x\- —–]*[?….—–_-]",
    re.IGNORECASE,
)
_NULL = frozenset(("None", "NaN", "NA", "undefined value"))
_MATH = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_WORD = re.compile(r"(?<![\\a-zA-Z{])[A-Za-z][a-z']+(?![a-zA-Z{}])")
_VERB_LIST = (
    "is are was were be been equals equal takes take took has have had there therefore hence gives "
    "give contains contain needs need costs cost becomes must can will follows holds obtain "
    "obtained get find shown so thus then"
)
_VERBS = frozenset(_VERB_LIST.split())
_SENTENCE = re.compile(
    r"(?:(?:[A-Za-z][a-z']+|[aAI]|[a-zA-Z](?= (?:is|equals|are) ))[,:]? +)*"
    r"(?P<formula>\S.*?)(?: +(?:[A-Za-z][a-z']+|a)[,;]?)*",
    re.DOTALL,
)
_PROSE_WORDS = 5


@dataclass(frozen=True, slots=True)
class Gold:
    """The answer in a gold, or `fault`, the kind of what is wrong with it."""

    text: str
    fault: str = ""


def read_gold(text: str) -> Gold:
    """The one answer that a text of a data set gives."""
    if not text.strip():
        return Gold("", "empty")
    if _CONTROL.search(text):
        return Gold("", "control character")
    if _ESCAPED.match(text.lstrip(" ")):
        return Gold("", "lost backslash")
    if "\\boxed" in text or "\\fbox" in text:
        boxed = extract_boxed(text)
        if boxed.text is None:
            return Gold("", "empty" if boxed.reason == "no_answer" else "unbalanced")
        text = boxed.text
    if "####" in text:
        text = text.rpartition("####")[2]
    text = _decoded(text.strip().replace("\r\n", "\n"))
    text = _PREFIX.sub("", text, count=1) if _PREFIX.match(text) else text
    fault = _fault(text)
    return Gold("", fault) if fault else _from_prose(text)


def _decoded(text: str) -> str:
    """Without HTML entities; the only entry of a list in JSON, nothing where it has several."""
    if _ENTITY.search(text):
        text = html.unescape(text)
    if text.startswith(('["', "['")):
        try:
            entries = json.loads(text.replace("'", '"'))
        except ValueError:
            return text
        return entries[0] if len(entries) == 1 and isinstance(entries[0], str) else ""
    return text


def _fault(text: str) -> str:
    """Why a text is no answer; "" when it may be one."""
    if len(text) > MAX_GOLD_CHARS:
        return "too long"
    if _ESCAPED.search(text) or _LOST.search(text):
        return "lost backslash"
    bare = text.strip("$ ").removeprefix("\\text{").strip("}()[]$\"' ")
    if text in _NULL or not bare or _PLACEHOLDER.fullmatch(bare.rstrip(".! ") or bare):
        return "placeholder" if text.strip("$ ") else "empty"
    return ""


def _from_prose(text: str) -> Gold:
    """The only formula or number of a sentence; text that is no sentence as it is."""
    outside = _MATH.sub(" ", text)
    words = [word.lower() for word in _WORD.findall(outside)]
    has_stop = text.endswith(".") and len(text.split()) >= _PROSE_WORDS and words
    is_prose = _VERBS.intersection(words) or has_stop or len(words) >= 2 * _PROSE_WORDS
    if not is_prose:
        return Gold(text)
    formulas = list(dict.fromkeys(next(filter(None, groups)) for groups in _MATH.findall(text)))
    if formulas:
        is_one = len(formulas) == 1 and not re.search(r"\d", outside)
        if is_one and len(formulas[0].strip()) == 1 and formulas[0].strip().isalpha():
            return Gold(text)  # "$n$ is even"
        return Gold(formulas[0]) if is_one else Gold("", "a sentence with several formulas")
    match = _SENTENCE.fullmatch(text.rstrip(" .!"))
    if (
        match
        and re.search(r"[\d\\]", formula := match.group("formula"))
        and not _WORD.search(formula)
    ):
        return Gold(formula)
    if not re.search(r"[\d\\]", text):
        numbers = [NUMBERS[word] for word in words if word in NUMBERS]
        if len(numbers) == 1:
            return Gold(numbers[0])
        key = re.sub(r"[\W_]", "", text.lower())
        is_short = len(words) < _PROSE_WORDS or meaning(key) != key
        return Gold(text) if is_short else Gold("", "a sentence without an answer")
    is_short = len(words) < _PROSE_WORDS
    return Gold(text) if is_short else Gold("", "a sentence with several formulas")
