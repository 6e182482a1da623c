"""Repeated problems inside a data set and across two: what inflates a result without an error."""

from collections.abc import Sequence

_MAX_NAMES = 5


def duplicate_ids(rows: Sequence[dict]) -> list[tuple[str, str]]:
    """(id, id of the first) of every row whose problem was there before; blanks do not count."""
    first: dict[str, str] = {}
    pairs = []
    for row in rows:
        original = first.setdefault(_problem_key(row), row["id"])
        if original != row["id"]:
            pairs.append((row["id"], original))
    return pairs


def overlapping_ids(train: Sequence[dict], evaluation: Sequence[dict]) -> list[tuple[str, str]]:
    """(id in evaluation, id in train) of the problems that are in both."""
    known = {_problem_key(row): row["id"] for row in reversed(train)}
    keys = ((row["id"], _problem_key(row)) for row in evaluation)
    return [(row_id, known[key]) for row_id, key in keys if key in known]


def data_warnings(train: Sequence[dict], evaluation: Sequence[dict] = ()) -> list[str]:
    """One line for repeated training problems and one for problems in both sets; [] if none."""
    warnings = []
    if pairs := duplicate_ids(train):
        warnings.append(f"data: {len(pairs)} repeated problems: {_shown(pairs)}")
    if pairs := overlapping_ids(train, evaluation):
        warnings.append(f"data: {len(pairs)} evaluation problems are trained on: {_shown(pairs)}")
    return warnings


def _problem_key(row: dict) -> str:
    prompt = row["prompt"]
    text = prompt if isinstance(prompt, str) else "\n".join(m["content"] for m in prompt)
    return " ".join(text.split()).lower()


def _shown(pairs: Sequence[tuple[str, str]]) -> str:
    names = ", ".join(f"{a} = {b}" for a, b in pairs[:_MAX_NAMES])
    return names + (", ..." if len(pairs) > _MAX_NAMES else "")
