r"""What is compared: the answer in a response, by one of three rules, and the golds of a row.

boxed    the last box (nsr_fast.data.boxed)
lenient  the same; without any box, "answer is ..." on the last line that is not blank
paper    the reference rule (RLVR-Decomposed, extract_answer_math): the text after the last "boxed",
         an unclosed box too, else what follows "he answer is", else the last number anywhere. It
         pays truncated guesses and is here for parity runs only.
"""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import lru_cache

from nsr_fast.data.boxed import Extraction, extract_boxed
from nsr_fast.errors import InputError
from nsr_fast.reward.math.spelling import normalised
from nsr_fast.reward.verdict import without_bad_golds

CACHE_SIZE = 65_536
_NUMBER = re.compile(r"-?\d*\.?\d+")
_ANSWER_IS = re.compile(r"(?i)\banswer\s*(?:is|:|=)\s*:?\s*(.+?)\s*$")
_MAX_LINE_CHARS = 500

canonical = lru_cache(maxsize=CACHE_SIZE)(normalised)


def extract_lenient(response: str) -> Extraction:
    """The last box; without any box, "answer is ..." on the last line that is not blank."""
    boxed = extract_boxed(response)
    if boxed.text is not None or boxed.reason == "truncated":
        return boxed
    last_line = response.rstrip()[-_MAX_LINE_CHARS:].rpartition("\n")[2]
    match = _ANSWER_IS.search(last_line)
    text = match.group(1).strip("*`_ ") if match else ""
    return Extraction(text, "") if text else boxed


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
    texts = []
    for choice in _choices(answer):
        if isinstance(choice, float):
            texts.append(format(Decimal(repr(choice)), "f"))
        elif isinstance(choice, str | int) and not isinstance(choice, bool):
            boxed = extract_boxed(choice).text if "\\boxed" in str(choice) else None
            texts.append(boxed or str(choice))
    return [text for text in texts if canonical(text)]


def check_golds(rows: Sequence[dict]) -> list[dict]:
    """The rows with an answer that its own box would not verify against, in order.

    Needs no worker: a gold that survives extraction and normalisation equals itself.
    """
    return [row for row in rows if not _is_usable(row.get("answer"))]


def usable_rows(rows: Sequence[dict], *, drop_bad_golds: bool = False) -> list[dict]:
    """The rows whose answers verify; bad ones raise InputError with their ids, or are dropped."""
    problem = "answers do not verify against themselves"
    return without_bad_golds(rows, check_golds(rows), problem, drop_bad_golds=drop_bad_golds)


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


def _choices(answer: object) -> Sequence:
    return answer if isinstance(answer, list | tuple) else [answer]


def _is_usable(answer: object) -> bool:
    golds = accepted_answers(answer)
    if not golds or len(golds) != len(_choices(answer)):
        return False
    return all(_equals_its_box(gold) for gold in golds)


def _equals_its_box(gold: str) -> bool:
    boxed = extract_boxed(f"\\boxed{{{gold}}}").text
    return boxed is not None and canonical(boxed) == canonical(gold)
