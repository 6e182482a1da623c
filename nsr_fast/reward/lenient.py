r"""Extraction rules besides the last box: an answer in words, and the paper's reference rule.

The reference rule (RLVR-Decomposed, extract_answer_math) takes the text after the last "boxed", an
unclosed box too, else what follows "he answer is", else the last number anywhere. It pays truncated
guesses and is here for parity runs only.
"""

import re

from nsr_fast.reward.boxed import Extraction, extract_boxed

_NUMBER = re.compile(r"-?\d*\.?\d+")
_ANSWER_IS = re.compile(r"(?i)\banswer\s*(?:is|:|=)\s*:?\s*(.+?)\s*$")
_MAX_LINE_CHARS = 500


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
