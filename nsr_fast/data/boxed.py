r"""The final answer of a response: its last balanced \boxed{...} or \fbox{...}, in linear time.

Text up to the last </think> is not an answer, nor is a thought that never ends. Braces are matched,
\{ and \} do not count. A box that never closes is a truncated answer, not a shorter one. An empty
last box defers to the one before it. Boxes joined by nothing but "or", "and", a comma or "x =" are
one answer with several values. A number may go without braces.
"""

import re
from dataclasses import dataclass

_NUMBER = r"[+-]?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:/[0-9]+)?"
_TOKEN = re.compile(rf"\\{{1,2}}(?:boxed|fbox)\s*(?:\{{|{_NUMBER})|\\.|[{{}}]", re.DOTALL)
_UNBRACED = re.compile(rf"\\{{1,2}}(?:boxed|fbox)\s*({_NUMBER})")
_JOINT = re.compile(
    r"(?:[\s$,;]|\\[()\[\],; ]|\\text\{|\}|\b(?:or|and)\b|\b[a-zA-Z](?:_\{?\d\}?)?\s*=)*"
)
MAX_VALUES = 64
_MAX_JOINT_CHARS = 40
_BLANK = re.compile(r"(?:\s|~|\$|\\[,;:! ])*")


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer text; None with the reason why there is none: no_answer | truncated."""

    text: str | None
    reason: str


@dataclass(slots=True)
class _Box:
    start: int  # of its backslash
    inside: int
    end: int | None  # of its inside; None while open


def extract_boxed(response: str) -> Extraction:
    """The answer that the response boxes last; see the rules above."""
    text = spoken(response)
    boxes = [box for box in _boxes(text) if not _is_blank(text, box)]
    if not boxes:
        return Extraction(None, "no_answer")
    last = boxes[-1]
    if last.end is None:
        return Extraction(None, "truncated")
    closed = [box for box in boxes if box.end is not None]
    values: list[str] = []
    start = len(text)
    for outer in reversed(_outermost(closed)):
        if values and not _is_joint(text[outer.end + 1 : start]):
            break
        values.append(_unboxed(text[outer.inside : outer.end]))
        start = outer.start
        if len(values) == MAX_VALUES:
            break
    return Extraction(" , ".join(reversed(values)), "")


def spoken(response: str) -> str:
    """The response without its thoughts, closed or cut short."""
    return response.rpartition("</think>")[2].partition("<think>")[0]


def _outermost(closed: list[_Box]) -> list[_Box]:
    """The boxes that are in no other, in order; `closed` is in the order of opening."""
    outermost: list[_Box] = []
    for box in closed:
        if not outermost or box.start > outermost[-1].end:
            outermost.append(box)
    return outermost


def _boxes(text: str) -> list[_Box]:
    """Every box in the order in which it opens; one pass."""
    first = min((i for i in (text.find("\\boxed"), text.find("\\fbox")) if i >= 0), default=None)
    found: list[_Box] = []
    stack: list[_Box | None] = []  # a box per brace that opens one, None for any other brace
    for match in _TOKEN.finditer(text, first) if first is not None else ():
        token = match.group()
        if token == "}":
            box = stack.pop() if stack else None
            if box is not None:
                box.end = match.start()
        elif token == "{":
            stack.append(None)
        elif token[-1] == "{" and len(token) > 2:
            found.append(_Box(match.start(), match.end(), None))
            stack.append(found[-1])
        elif number := _UNBRACED.fullmatch(token):
            found.append(_Box(match.start(), match.start() + number.start(1), match.end()))
    return found


def _is_blank(text: str, box: _Box) -> bool:
    if box.end is None:
        return False
    return _BLANK.fullmatch(text, box.inside, box.end) is not None


def _is_joint(gap: str) -> bool:
    """Whether what lies between two boxes says no more than "or", "and" or a comma."""
    is_short = len(gap) <= _MAX_JOINT_CHARS and _JOINT.fullmatch(gap) is not None
    return is_short and re.search(r"or|and|[,;]", gap) is not None


def _unboxed(text: str) -> str:
    """Without the commands of boxes inside; their braces stay and group."""
    return re.sub(r"\\{1,2}(?:boxed|fbox)(?=\s*[{0-9])", "", text)
