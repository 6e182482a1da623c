"""Rows of a data set: JSONL, JSONL.gz, parquet (plain or verl's layout) or a `datasets` name.

Every row leaves here with a unique `id`, a `prompt` (text, or a list of chat messages) and, when it
has one, an `answer`. Whatever is wrong ends in one InputError naming the file and the row; no
tokenizer and no model is needed to find it.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path

from nsr_fast.data.boxed import extract_boxed
from nsr_fast.errors import InputError
from nsr_fast.types import CHAT

FILE_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")


def read_rows(
    data: str | Path, *, limit: int | None = None, key: str = "data", needs_answer: bool = True
) -> list[dict]:
    """All rows of `data` (the first `limit`), checked and in one layout.

    data     FILE.jsonl | FILE.jsonl.gz | FILE.parquet | folder or hub name for `datasets`; a hub
             name is name, name:split or name:config:split (split train when absent)
    row      {"prompt" or "problem": text or messages, "answer": text, number, list, mapping};
             "tests" may stand in for "answer"; verl's {"prompt": messages, "reward_model":
             {"ground_truth": ...}} is read as the same. Other columns pass through.
    key      the setting that names `data`, for messages
    needs_answer  false: a row may come without (the reward is the user's own)
    Raises   InputError: no file, no rows, broken JSON, no prompt, no answer, wrong type
    """
    rows = []
    try:
        for where, raw in _raw_rows(str(data)):
            rows.append(_canonical(raw, where, index=len(rows), needs_answer=needs_answer))
            if limit is not None and len(rows) == limit:
                break
        if not rows:
            raise InputError(f"{data}: no rows; expected at least one row with prompt and answer")
    except InputError as error:
        raise InputError(f"{key}: {error}") from error.__cause__
    _make_ids_unique(rows)
    return rows


def _raw_rows(data: str) -> Iterator[tuple[str, object]]:
    """(where, row) for every row, `where` naming file and row for messages."""
    path = Path(data).expanduser()
    if path.is_file() or data.endswith(FILE_SUFFIXES):
        yield from _parquet_rows(path) if data.endswith(".parquet") else _jsonl_rows(path)
    elif path.is_dir() or not data.startswith(("/", ".", "~")):
        yield from _dataset_rows(data, path)
    else:
        raise InputError(f"{data}: no such file or folder")


def _jsonl_rows(path: Path) -> Iterator[tuple[str, object]]:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path}:{number}", _parsed(line, f"{path}:{number}")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (looked in {Path.cwd()})") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: not a complete gzip file: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _parsed(line: bytes, where: str) -> object:
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text: {error.reason}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deeply")
        column = getattr(error, "colno", 1)
        message = f"{where}: broken JSON at column {column}: {reason}"
        raise InputError(f"{message}; expected one JSON object a line") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, object]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    if not path.exists():
        raise InputError(f"{path}: no such file (looked in {Path.cwd()})")
    number = 0
    try:
        with ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except (ArrowException, OSError) as error:
        first_line = str(error).splitlines()[0]
        raise InputError(f"{path}: not a readable parquet file: {first_line}") from None


def _dataset_rows(data: str, path: Path) -> Iterator[tuple[str, object]]:
    from datasets import DownloadMode, load_dataset

    name, config, split = str(path) if path.is_dir() else data, None, "train"
    if not path.is_dir() and data.count(":") in (1, 2):
        name, *rest = data.split(":")
        split, config = rest[-1], rest[0] if len(rest) == 2 else None
    try:
        mode = DownloadMode.REUSE_DATASET_IF_EXISTS
        dataset = load_dataset(name, config, split=split, download_mode=mode)
    except Exception as error:  # builders and hub clients raise types of their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{data}: no such file, and `datasets` cannot load it: {reason}") from None
    for number, row in enumerate(dataset, 1):
        yield f"{data}: row {number}", row


def _canonical(raw: object, where: str, *, index: int, needs_answer: bool) -> dict:
    """One checked row with `id`, `prompt` and `answer`."""
    if not isinstance(raw, dict):
        raise InputError(f"{where}: expected a JSON object, got {type(raw).__name__}")
    row = dict(raw)
    prompt = _first_present(row, ("prompt", "problem"))
    if prompt is None:
        raise InputError(
            f"{where}: no prompt; expected a column prompt or problem, got {sorted(row)}"
        )
    row["prompt"] = _checked_prompt(prompt, where)
    if isinstance(prompt, list):
        row[CHAT] = True
    answer = row.get("answer")
    if answer is None and isinstance(row.get("reward_model"), Mapping):
        answer = _verl_answer(row["reward_model"].get("ground_truth"))
    if needs_answer and answer is None and row.get("tests") is None:
        message = f"{where}: no answer; expected a column answer (or tests)"
        raise InputError(f"{message}, got {sorted(row)}")
    if answer is not None:
        row["answer"] = _checked_answer(answer, where)
    row["id"] = _row_id(row, where, index)
    return row


def _first_present(row: Mapping, names: tuple[str, ...]) -> object:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _checked_prompt(prompt: object, where: str) -> str | list[dict]:
    """Text, or chat messages; one user message alone is its text."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise InputError(f"{where}: prompt is empty")
        return prompt
    is_chat = isinstance(prompt, list) and all(
        isinstance(m, Mapping)
        and isinstance(m.get("role"), str)
        and isinstance(m.get("content"), str)
        for m in prompt
    )
    if not is_chat or not prompt:
        raise InputError(
            f"{where}: prompt: expected text or a list of "
            f'{{"role": text, "content": text}}, got {_shown(prompt)}'
        )
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return _checked_prompt(prompt[0]["content"], where)
    return [dict(message) for message in prompt]


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
