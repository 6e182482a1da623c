r"""What is compared: the answer in a response, by one of three rules, and the golds of a row.

boxed    the last box (nsr_fast.data.boxed)
lenient  the same; without any box, <answer>...</answer>, or "answer is ..." on the last line, which
         a line of courtesy may follow
paper    the reference rule (RLVR-Decomposed, extract_answer_math): the text after the last "boxed",
         an unclosed box too, else what follows "he answer is", else the last number anywhere. It
         pays truncated guesses and is here for parity runs only.
"""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import lru_cache
from math import isfinite

from nsr_fast.data.boxed import Extraction, extract_boxed, spoken
from nsr_fast.errors import InputError
from nsr_fast.reward.math.gold_text import Gold, read_gold
from nsr_fast.reward.math.spelling import normalised

CACHE_SIZE = 65_536
_NUMBER = re.compile(r"-?\d*\.?\d+")
_DOTS = re.compile(r"\.\.|\\[lc]?dots(?![a-z])")
_ANSWER_IS = re.compile(r"(?i)\banswer(?: to [^.:=]{1,60})?\s*(?:\bis\b|:|=)[\s:]*")
_TAG = re.compile(r"<answer>([^<]*)</answer>")
_BOLD = re.compile(r"(\*\*|__|`)(.+?)\1")
_SENTENCE_END = re.compile(r"[.!]\s+(?=[A-Z])")
# What may follow an answer: no figures, no formula, nothing that takes it back.
_COURTESY = re.compile(
    r"(?i)(?!.*\b(?:wait|but|however|wrong|incorrect|not|unsure|mistake|error|actually|maybe|perhaps"
    r"|alternatively|or|instead|answer|recheck|reconsider)\b)[^\d$\\=]*"
)
_MAX_LINE_CHARS, _MAX_LINES = 500, 6

canonical = lru_cache(maxsize=CACHE_SIZE)(normalised)


def extract_lenient(response: str) -> Extraction:
    """The last box; without any box answer tags, or the last line that says "answer is ..."."""
    boxed = extract_boxed(response)
    if boxed.text is not None or boxed.reason == "truncated":
        return boxed
    text = spoken(response)
    if tags := _TAG.findall(text[-10 * _MAX_LINE_CHARS :]):
        stated = tags[-1].strip()
        text = _stated([stated]) or stated
    else:
        lines = map(_plain, text[-_MAX_LINES * _MAX_LINE_CHARS :].split("\n"))
        text = _stated([line for line in lines if line][-_MAX_LINES:])
    return Extraction(text, "") if text else boxed


def _stated(lines: list[str]) -> str:
    """What the last line says that states an answer, if only courtesy follows it."""
    for number in range(len(lines) - 1, -1, -1):
        line = lines[number][-_MAX_LINE_CHARS:]
        if not (matches := list(_ANSWER_IS.finditer(line))):
            if _COURTESY.fullmatch(line):
                continue
            # The answer alone on the last line, below "Final answer:".
            heading = _ANSWER_IS.search(lines[number - 1]) if number == len(lines) - 1 > 0 else None
            is_below = heading is not None and heading.end() == len(lines[number - 1])
            return line if is_below else ""
        text, *rest = _SENTENCE_END.split(line[matches[-1].end() :], maxsplit=1)
        return text.strip("*`_ ") if not rest or _COURTESY.fullmatch(rest[0]) else ""
    return ""


def _plain(line: str) -> str:
    """Without blanks and markdown."""
    return _BOLD.sub(r"\2", line).strip("*`_# ")


def extract_paper(response: str) -> Extraction:
    """The reference code's rule, its last resort included."""
    if "boxed" in response:
        text = _boxed_or_rest(response.rpartition("boxed")[2])
    elif "he answer is" in response:
        text = response.rpartition("he answer is")[2].strip()
    else:
        # findall over commas removed, as the reference does; the last number wins.
        numbers = _NUMBER.findall(response.replace(",", ""))
        text = numbers[-1] if numbers else ""
    text = text.partition("\n")[0].strip().strip(":").rstrip("./")
    return Extraction(text, "") if text else Extraction(None, "no_answer")


_RULES = {"boxed": extract_boxed, "lenient": extract_lenient, "paper": extract_paper}


def extraction_rule(name: str) -> Callable[[str], Extraction]:
    """The rule called boxed, lenient or paper."""
    if name not in _RULES:
        raise InputError(f"extract: expected one of {', '.join(_RULES)}, got {name!r}")
    return _RULES[name]


def accepted_answers(answer: object) -> list[str]:
    """The answers as text; unusable ones (empty, neither text nor number) are left out."""
    golds = [gold_of(choice) for choice in choices(answer)]
    return [gold.text for gold in golds if not gold.fault]


def choices(answer: object) -> Sequence:
    """The accepted answers of a row: its list, or the one that it has."""
    return answer if isinstance(answer, list | tuple) else [answer]


def gold_of(choice: object) -> Gold:
    """One accepted answer as text, or why it is none."""
    if isinstance(choice, float) and isfinite(choice):
        return Gold(format(Decimal(repr(choice)), "f"))
    if not isinstance(choice, str | int) or isinstance(choice, bool):
        return Gold("", "neither text nor number")
    return _gold_of_text(str(choice))


@lru_cache(maxsize=65_536)  # every rollout of a group asks for the same
def _gold_of_text(text: str) -> Gold:
    gold = read_gold(text)
    if gold.fault:
        return gold
    if not canonical(gold.text):
        return Gold("", "empty")
    if _DOTS.search(canonical(gold.text)):  # those of 0.333... have become an overline
        return Gold("", "dots that stand for something")
    return gold if _equals_its_box(gold.text) else Gold("", "unbalanced")


def _boxed_or_rest(rest: str) -> str:
    """The brace group that `rest` starts with (all of it when unclosed), else up to a dollar."""
    if not rest.startswith("{"):
        return rest.partition("$")[0].strip()
    depth = 0
    for index, sign in enumerate(rest):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return rest[1:index]
    return rest[1:]


def _equals_its_box(gold: str) -> bool:
    boxed = extract_boxed(f"\\boxed{{{gold}}}").text
    return boxed is not None and canonical(boxed) == canonical(gold)
