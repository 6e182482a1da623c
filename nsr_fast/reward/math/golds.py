"""The golds of a data set: read, checked before any GPU time, and counted by what is wrong.

A gold that survives reading and normalisation equals itself; whether a formula can be read at all
is asked of the workers, but only for formulas beyond plain algebra.
"""

from collections import Counter
from collections.abc import Sequence

from nsr_fast.reward.math.answer import canonical, choices, gold_of
from nsr_fast.reward.math.gold_text import Gold
from nsr_fast.reward.math.grammar import is_plain
from nsr_fast.reward.math.verifier import MathVerifier, shared_verifier
from nsr_fast.reward.verdict import without_bad_golds


def usable_rows(
    rows: Sequence[dict], *, drop_bad_golds: bool = False, verifier: MathVerifier | None = None
) -> list[dict]:
    """The rows, each with the readable gold as its `answer`.

    Bad ones raise InputError with their ids and a count by kind, or are dropped.
    """
    faults = gold_faults(rows, verifier)
    bad = [row for row, _ in faults]
    problem = f"answers cannot be used as golds ({counted(faults)})"
    kept = without_bad_golds(rows, bad, problem, drop_bad_golds=drop_bad_golds)
    return [{**row, "answer": _readable(row["answer"])} for row in kept]


def check_golds(rows: Sequence[dict], verifier: MathVerifier | None = None) -> list[dict]:
    """The rows with an answer that its own box would not verify against, in order."""
    return [row for row, _ in gold_faults(rows, verifier)]


def gold_faults(
    rows: Sequence[dict], verifier: MathVerifier | None = None
) -> list[tuple[dict, str]]:
    """(row, kind of fault) of every row whose gold cannot be used, in order."""
    golds = [_golds(row.get("answer")) for row in rows]
    texts = {canonical(gold.text) for of_row in golds for gold in of_row if not gold.fault}
    doubtful = sorted(text for text in texts if not is_plain(text))
    unreadable: set[str] = set()
    if doubtful:
        unreadable.update((verifier or shared_verifier()).unreadable(doubtful))
    kinds = [_kind(of_row, unreadable) for of_row in golds]
    return [(row, kind) for row, kind in zip(rows, kinds, strict=True) if kind]


def counted(faults: Sequence[tuple[dict, str]]) -> str:
    """2 empty, 1 placeholder."""
    counts = Counter(kind for _, kind in faults)
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


def _golds(answer: object) -> list[Gold]:
    return [gold_of(choice) for choice in choices(answer)] or [Gold("", "empty")]


def _kind(golds: list[Gold], unreadable: set[str]) -> str:
    """The first fault of a row's golds."""
    faults = [
        gold.fault or "unreadable formula"
        for gold in golds
        if gold.fault or canonical(gold.text) in unreadable
    ]
    return faults[0] if faults else ""


def _readable(answer: object) -> object:
    """The answer with its texts read; numbers stay numbers."""
    texts = [gold_of(c).text if isinstance(c, str) else c for c in choices(answer)]
    return texts if isinstance(answer, list | tuple) else texts[0]
