"""The program in a completion: its fenced blocks as CommonMark has them, and which of them count.

A fence is closed by one of its own kind, at least as long, indented by three blanks at most and
with nothing behind it, or by the end of the text; fences stand in list items and quotes as well.
"""

import re
from dataclasses import dataclass

from nsr_fast.reward.code.names import bound_names, free_names, imported_names, parsed

_OPENING = re.compile(r"(`{3,})([^`]*)$|(~{3,})(.*)$")
_ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)])[ \t]+(?=\S)")
_LANGUAGE = re.compile(r"[{.\s]*([A-Za-z0-9+#_.-]*)")
_PYTHON = re.compile(r"i?(?:py|python|pypy|cpython|python-?code)[\d.]*", re.IGNORECASE)
_READS = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0\b|\bos\.read\s*\(\s*0|fileinput")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; language in lower case, empty when the fence names none."""

    language: str
    text: str

    @property
    def is_python(self) -> bool:
        return _PYTHON.fullmatch(self.language) is not None


def program_of(completion: str, names: frozenset[str] = frozenset()) -> str | None:
    """The program in what follows the last </think>, or None.

    names  what the tests ask for: the last block that defines it counts, with the blocks that it
           needs; without names the last block that reads the input, else the last
    Python blocks count before others.
    """
    blocks = fenced_blocks(completion.rpartition("</think>")[2])
    chosen = [block for block in blocks if block.is_python] or [
        block for block in blocks if not block.language
    ]
    texts = [block.text for block in chosen or blocks]
    if not texts:
        return None
    if names:
        main = {_defining(texts, name) for name in names}
        main.discard(None)
    else:
        reading = [i for i, text in enumerate(texts) if _READS.search(text) and _is_whole(text)]
        main = set(reading[-1:])
    main = main or {len(texts) - 1}
    return "\n\n".join(texts[i].strip("\n") for i in sorted(_with_needed(main, texts)))


def _defining(texts: list[str], name: str) -> int | None:
    """The last block that makes a name, else the last that imports it."""
    made = _last(texts, lambda text: name in defined(text) - imported_names(text))
    return made if made is not None else _last(texts, lambda text: name in defined(text))


def defined(text: str) -> set[str]:
    """Names that a block defines, with the methods of its classes."""
    tree = parsed(text)
    if tree is None:
        return set(re.findall(r"^(?:async )?(?:def|class) +(\w+)", text, re.MULTILINE))
    methods = {
        name
        for node in tree.body
        if node.__class__.__name__ == "ClassDef"
        for name in bound_names(node.body)
    }
    return bound_names(tree.body) | methods


def _is_whole(text: str) -> bool:
    """Whether a block does something when it is run: not only definitions."""
    tree = parsed(text)
    kinds = ("FunctionDef", "AsyncFunctionDef", "ClassDef", "Import", "ImportFrom", "Assign")
    return tree is None or any(node.__class__.__name__ not in kinds for node in tree.body)


def _last(texts: list[str], is_right) -> int | None:
    return next((i for i in reversed(range(len(texts))) if is_right(texts[i])), None)


def _with_needed(main: set[int], texts: list[str]) -> set[int]:
    """The blocks and, before each, the last ones that define what it uses and does not define."""
    chosen, pending = set(main), list(main)
    while pending:
        place = pending.pop()
        for name in free_names(texts[place]):
            known = any(name in _top_level(texts[i]) for i in chosen)
            needed = _last(texts[:place], lambda text, name=name: name in _top_level(text))
            if needed is not None and not known:
                chosen.add(needed)
                pending.append(needed)
    return chosen


def _top_level(text: str) -> set[str]:
    tree = parsed(text)
    return bound_names(tree.body) if tree else set()


def fenced_blocks(text: str) -> list[Block]:
    """All fenced blocks of a CommonMark text, in order."""
    blocks: list[Block] = []
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    offsets, place = [0], 0  # columns where the contents of the list items around begin
    while place < len(lines):
        line, quote = _unquoted(lines[place].expandtabs(4))
        column = _content(line, offsets)
        offset = offsets[-1]
        opening = _OPENING.match(line[column:])
        is_near = column - offset <= 3
        place += 1
        if not opening or not is_near:
            continue
        fence = opening.group(1) or opening.group(3)
        info = opening.group(2) if opening.group(1) else opening.group(4)
        content: list[str] = []
        while place < len(lines):
            raw = _unquoted(lines[place])[0] if quote else lines[place]
            place += 1
            if _closes(raw, fence, offset):
                break
            content.append(_dedented(raw, column))
        language = _LANGUAGE.match(info).group(1).lower()
        blocks.append(Block(language.partition(":")[0], "\n".join(content)))
    return blocks


def _unquoted(line: str) -> tuple[str, bool]:
    match = re.match(r" {0,3}> ?", line)
    return (line[match.end() :], True) if match else (line, False)


def _content(line: str, offsets: list[int]) -> int:
    """The column of a line's text; `offsets` becomes that of the list items it stands in."""
    column = len(line) - len(line.lstrip(" "))
    if column == len(line):
        return column  # a blank line ends nothing
    while column < offsets[-1]:
        offsets.pop()
    while (item := _ITEM.match(line, column)) and column - offsets[-1] <= 3:
        column = item.end()
        offsets.append(column)
    return column


def _closes(line: str, fence: str, offset: int) -> bool:
    bare = line.strip()
    indent = len(line) - len(line.lstrip(" "))
    is_fence = len(bare) >= len(fence) and set(bare) == {fence[0]}
    return is_fence and indent - offset <= 3


def _dedented(line: str, columns: int) -> str:
    """The line without up to so many blanks at its start."""
    bare = line.lstrip(" \t")
    blanks = line[: len(line) - len(bare)]
    return (blanks.expandtabs(4) if columns else blanks)[columns:] + bare
