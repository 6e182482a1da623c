"""Rows as they stand in a file or a `datasets` name, each with its place for messages.

A JSON file holds one object a line, or one document: an array of rows, rows below one key, or
objects one after the other, indented or not.
"""

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from nsr_fast.errors import InputError

_BLANKS = re.compile(r"\s*")
_TABLES = {".csv": ",", ".tsv": "\t"}
_NAMES = (".jsonl", ".json", *_TABLES)
FILE_SUFFIXES = (*_NAMES, *(f"{name}.gz" for name in _NAMES), ".parquet")


def raw_rows(data: str) -> Iterator[tuple[str, object]]:
    """(where, row) for every row, `where` naming file and row for messages."""
    path = Path(data).expanduser()
    if path.is_file() or data.endswith(FILE_SUFFIXES):
        yield from _file_rows(path)
    elif path.is_dir() or not data.startswith(("/", ".", "~")):
        yield from _dataset_rows(data, path)
    else:
        raise InputError(f"{data}: no such file or folder")


def _file_rows(path: Path) -> Iterator[tuple[str, object]]:
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            if kind in _TABLES:
                yield from _table_rows(file, path, _TABLES[kind])
            else:
                yield from _json_rows(file, path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (looked in {Path.cwd()})") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: not a complete gzip file: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _json_rows(file, path: Path) -> Iterator[tuple[str, object]]:
    is_first = True
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        if is_first and _opens_a_document(line):
            yield from _document_rows(line + file.read(), path, number)
            return
        is_first = False
        yield f"{path}:{number}", _parsed_line(line, f"{path}:{number}")


def _opens_a_document(line: bytes) -> bool:
    """Whether the first line is an array, or an object that goes on below it."""
    start = line.strip().removeprefix(b"\xef\xbb\xbf")
    if start.startswith(b"["):
        return True
    try:
        json.loads(start)
    except json.JSONDecodeError as error:
        return start.startswith(b"{") and error.pos >= len(error.doc)
    except (UnicodeDecodeError, RecursionError):
        return False
    return False


def _document_rows(text: bytes, path: Path, first_line: int) -> Iterator[tuple[str, object]]:
    values: list[object] = []
    decoder, place = json.JSONDecoder(), 0
    try:
        document = text.decode("utf-8-sig").strip()
        while place < len(document):
            value, end = decoder.raw_decode(document, place)
            values.append(value)
            place = _BLANKS.match(document, end).end()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error.reason}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        line = first_line + getattr(error, "lineno", 1) - 1
        column, reason = getattr(error, "colno", 1), getattr(error, "msg", "nested too deeply")
        raise InputError(
            f"{path}:{line}: broken JSON at column {column}: {reason}; expected an array of "
            "objects, or one object a line"
        ) from None
    for number, row in enumerate(_rows_within(values), 1):
        yield f"{path}: row {number}", row


def _rows_within(values: list[object]) -> list[object]:
    """The array's elements, or the only list of objects that the only object holds."""
    if len(values) != 1:
        return values
    (document,) = values
    if isinstance(document, list):
        return document
    lists = [
        value
        for value in document.values()
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
    ]
    is_row = any(isinstance(value, str) for value in document.values())
    return values if is_row or len(lists) != 1 else lists[0]


def _parsed_line(line: bytes, where: str) -> object:
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text: {error.reason}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deeply")
        column = getattr(error, "colno", 1)
        message = f"{where}: broken JSON at column {column}: {reason}"
        raise InputError(f"{message}; expected one JSON object a line") from None


def _table_rows(file, path: Path, delimiter: str) -> Iterator[tuple[str, object]]:
    """Rows below a header line; an empty cell is no value."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(
        io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), delimiter=delimiter, strict=True
    )
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row:
                names = len(reader.fieldnames or ())
                raise InputError(f"{where}: expected {names} cells as in the header line, got more")
            yield where, {name: cell for name, cell in row.items() if cell not in (None, "")}
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error.reason}") from None
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not a readable table: {error}") from None


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
