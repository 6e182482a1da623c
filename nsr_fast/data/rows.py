"""Rows of a data set in one layout.

Every row leaves here with a unique `id`, a `prompt` (text, or a list of chat messages) and, when it
has one, an `answer`. Whatever is wrong ends in one InputError naming the file and the row; no
tokenizer and no model is needed to find it.
"""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path

from nsr_fast.data.boxed import extract_boxed
from nsr_fast.data.files import raw_rows
from nsr_fast.errors import InputError
from nsr_fast.types import CHAT

_PROMPTS = ("prompt", "problem", "question")
_TESTS = ("tests", "input_output", "test_list")  # the last two as in APPS, TACO and MBPP


def read_rows(
    data: str | Path,
    *,
    limit: int | None = None,
    key: str = "data",
    prompt_column: str | None = None,
    answer_column: str | None = None,
    needs_answer: bool = True,
) -> list[dict]:
    """All rows of `data` (the first `limit`), checked and in one layout.

    data     FILE.jsonl | .json (also an array) | .csv | .tsv, each also .gz | FILE.parquet | folder
             or hub name for `datasets`; a hub name is name, name:split or name:config:split (split
             train when absent)
    row      {"prompt", "problem" or "question": text or messages, "answer": text, number, list,
             mapping}; "tests" may stand in for "answer", so may "solution" (its box, if it has one)
             and verl's {"reward_model": {"ground_truth": ...}}. Other columns pass through.
    key      the setting that names `data`, for messages
    prompt_column, answer_column   where they are instead; a.b is column b inside a
    needs_answer   False: a row may have neither answer nor tests
    Raises   InputError: no file, no rows, broken JSON, no prompt, no answer, wrong type
    """
    rows = []
    try:
        for where, raw in raw_rows(str(data)):
            row = _mapped(raw, where, {"prompt": prompt_column, "answer": answer_column})
            rows.append(_canonical(row, where, index=len(rows), needs_answer=needs_answer))
            if limit is not None and len(rows) == limit:
                break
        if not rows:
            raise InputError(f"{data}: no rows; expected at least one row with prompt and answer")
    except InputError as error:
        raise InputError(f"{key}: {error}") from error.__cause__
    _make_ids_unique(rows)
    return rows


def _mapped(raw: object, where: str, columns: Mapping[str, str | None]) -> dict:
    """A copy of the row with the columns that the settings name in their places."""
    if not isinstance(raw, Mapping):
        raise InputError(f"{where}: expected a JSON object, got {type(raw).__name__}")
    row = dict(raw)
    for name, column in columns.items():
        if column is None:
            continue
        value, path = (raw[column], []) if column in raw else (raw, column.split("."))
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None:
            raise InputError(f"{where}: {name}_column: no column {column!r}, got {sorted(raw)}")
        row[name] = value
    return row


def _canonical(row: dict, where: str, *, index: int, needs_answer: bool) -> dict:
    """One checked row with `id`, `prompt` and, where it has one, `answer`."""
    prompt = _first_present(row, _PROMPTS)
    if prompt is None:
        raise InputError(
            f"{where}: no prompt; expected a column {', '.join(_PROMPTS[:-1])} or {_PROMPTS[-1]}, "
            f"got {sorted(row)}; name yours with prompt_column"
        )
    row["prompt"] = _checked_prompt(prompt, where)
    if isinstance(prompt, list):
        row[CHAT] = True
    if (tests := _tests(row)) is not None:
        row["tests"] = tests
    answer = _answer(row)
    if answer is None and tests is None and needs_answer:
        raise InputError(
            f"{where}: no answer; expected a column answer, solution or tests, got {sorted(row)}; "
            "name yours with answer_column"
        )
    if answer is not None:
        row["answer"] = _checked_answer(answer, where)
    row["id"] = _row_id(row, where, index)
    return row


def _tests(row: Mapping) -> object:
    """The hidden tests of a programming problem, from the columns of known data sets."""
    if isinstance(row.get("test"), str) and isinstance(row.get("entry_point"), str):  # HumanEval
        return row.get("tests") or {"test": row["test"], "entry_point": row["entry_point"]}
    return _first_present(row, _TESTS)


def _answer(row: Mapping) -> object:
    """answer, else verl's ground truth, else the solution where no tests stand in."""
    if row.get("answer") is not None:
        return row["answer"]
    if isinstance(row.get("reward_model"), Mapping):
        return _verl_answer(row["reward_model"].get("ground_truth"))
    return None if row.get("tests") is not None else _boxed_or_whole(row.get("solution"))


def _boxed_or_whole(solution: object) -> object:
    boxed = extract_boxed(solution).text if isinstance(solution, str) else None
    return solution if boxed is None else boxed


def _first_present(row: Mapping, names: tuple[str, ...]) -> object:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _checked_prompt(prompt: object, where: str) -> str | list[dict]:
    """Text, or chat messages with text as content; one user message alone is its text."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise InputError(f"{where}: prompt is empty")
        return prompt
    messages = prompt if isinstance(prompt, list) else []
    texts = [_content_text(m) for m in messages]
    if not texts or None in texts:
        raise InputError(
            f"{where}: prompt: expected text or a list of "
            f'{{"role": text, "content": text}}, got {_shown(prompt)}'
        )
    turns = [{**message, "content": text} for message, text in zip(messages, texts)]
    if len(turns) == 1 and turns[0]["role"] == "user":
        return _checked_prompt(turns[0]["content"], where)
    if not any(turn["content"].strip() for turn in turns):
        raise InputError(f"{where}: prompt is empty")
    return turns


def _content_text(message: object) -> str | None:
    """The text of a message, also of a content in parts of type text; None if it is no text."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        return None
    content = message.get("content")
    if not isinstance(content, list) or not content:
        return content if isinstance(content, str) else None
    parts = [
        part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        for part in content
    ]
    return "".join(parts) if all(isinstance(part, str) for part in parts) else None


def _checked_answer(answer: object, where: str) -> object:
    """Text, a finite number, a mapping, or a non-empty list of texts and numbers."""
    if isinstance(answer, Mapping) and answer:
        return dict(answer)
    choices = answer if isinstance(answer, list) and answer else [answer]
    for choice in choices:
        is_number = isinstance(choice, int | float) and not isinstance(choice, bool)
        if not (isinstance(choice, str) or (is_number and isfinite(choice))):
            raise InputError(
                f"{where}: answer: expected text, a number, a list of accepted answers "
                f"or an object, got {_shown(answer)}"
            )
    return answer


def _verl_answer(truth: object) -> object:
    """verl's ground_truth: the answer itself, or a record of solution and normalised target."""
    if not isinstance(truth, Mapping):
        return truth
    if truth.get("answer") is not None:
        return truth["answer"]
    # The paper's files: `target` went through a normaliser that damages matrices and units, so the
    # box of the solution is taken wherever there is one.
    solution = truth.get("solution")
    boxed = extract_boxed(solution).text if isinstance(solution, str) else None
    return truth.get("target") if boxed is None else boxed


def _row_id(row: Mapping, where: str, index: int) -> str:
    if row.get("id") is not None:
        if not isinstance(row["id"], str | int):
            raise InputError(f"{where}: id: expected text or an integer, got {row['id']!r}")
        return str(row["id"])
    extra = row.get("extra_info")
    if isinstance(extra, Mapping) and extra.get("index") is not None:
        return f"{extra.get('split') or 'row'}-{extra['index']}"
    return f"row-{index}"


def _make_ids_unique(rows: list[dict]) -> None:
    """A repeated id gets #2, #3, ... in the order of the file."""
    taken = {row["id"] for row in rows}
    seen: dict[str, int] = {}
    for row in rows:
        name = row["id"]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            while f"{name}#{seen[name]}" in taken:
                seen[name] += 1
            row["id"] = f"{name}#{seen[name]}"
            taken.add(row["id"])


def _shown(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
