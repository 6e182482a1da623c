"""Golds that cannot be verified: empty, of a wrong type, or not equal to themselves in a box.

For code the gold is the row's tests, which must be of a known layout.
"""

import ast
from collections.abc import Sequence

from nsr_fast.errors import InputError
from nsr_fast.reward.boxed import extract_boxed
from nsr_fast.reward.code_tests import read_tests
from nsr_fast.reward.verifier import accepted_answers, canonical

_MAX_NAMES = 8
_WHAT = {False: "answers do not verify against themselves", True: "tests cannot be read"}


def check_golds(rows: Sequence[dict]) -> list[dict]:
    """The rows with an answer that its own box would not verify against, in order.

    Needs no worker: a gold that survives extraction and normalisation equals itself.
    """
    return [row for row in rows if not _is_usable(row.get("answer"))]


def check_tests(rows: Sequence[dict]) -> list[dict]:
    """The rows whose tests cannot be read, in order; nothing is run."""
    return [row for row in rows if not _has_tests(row)]


def usable_rows(
    rows: Sequence[dict], *, drop_bad_golds: bool = False, are_tests: bool = False
) -> list[dict]:
    """The rows whose golds verify; bad ones raise InputError with their ids, or are dropped.

    are_tests   the golds are tests of programs
    """
    bad = check_tests(rows) if are_tests else check_golds(rows)
    if not bad:
        return list(rows)
    names = ", ".join(repr(row["id"]) for row in bad[:_MAX_NAMES])
    more = f" and {len(bad) - _MAX_NAMES} more" if len(bad) > _MAX_NAMES else ""
    if not drop_bad_golds:
        raise InputError(
            f"data: {len(bad)} of {len(rows)} {_WHAT[are_tests]}: rows "
            f"{names}{more}; mend them or set drop_bad_golds: true"
        )
    ids = {row["id"] for row in bad}
    kept = [row for row in rows if row["id"] not in ids]
    if not kept:
        raise InputError(f"data: no row is left after dropping {len(bad)} bad golds: {names}{more}")
    return kept


def _has_tests(row: dict) -> bool:
    try:
        tests = read_tests(row["tests"] if row.get("tests") is not None else row.get("answer"))
        for statement in tests.statements:
            ast.parse(statement)
    except (ValueError, SyntaxError, RecursionError):  # ValueError: broken JSON too
        return False
    return True


def _is_usable(answer: object) -> bool:
    choices = answer if isinstance(answer, list | tuple) else [answer]
    golds = accepted_answers(answer)
    if not golds or len(golds) != len(choices):
        return False
    return all(_equals_its_box(gold) for gold in golds)


def _equals_its_box(gold: str) -> bool:
    boxed = extract_boxed(f"\\boxed{{{gold}}}").text
    return boxed is not None and canonical(boxed) == canonical(gold)
