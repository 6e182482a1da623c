"""Settings from a YAML file and the command line; whatever is wrong is one InputError."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args, get_origin

import yaml
from pydantic import ValidationError

from nsr_fast.config import FIELDS, GROUP_OF, Config
from nsr_fast.errors import InputError


def load_config(file: str | None, overrides: Mapping[str, str]) -> Config:
    """Read FILE (YAML) and apply `overrides` (key -> text, as typed on the command line)."""
    values = _read_yaml(file) if file else {}
    values |= {key: _from_text(key, text) for key, text in overrides.items()}
    for key in values:
        if key not in FIELDS:
            near = difflib.get_close_matches(key, FIELDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see `nsr-fast train --help`"
            raise InputError(f"unknown key {key!r}{_where(key, file, overrides)}; {hint}")
    try:
        return Config.from_flat(values)
    except ValidationError as error:
        raise InputError(_one_line(error, file, overrides)) from None


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """`--key value` and `--key=value` pairs; anything else is an InputError."""
    overrides, rest = {}, list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise InputError(f"expected --key value, got {word!r}")
        key, has_value, value = word[2:].partition("=")
        if not has_value:
            if not rest or rest[0].startswith("--"):
                value = "true" if _is_boolean(key.replace("-", "_")) else "VALUE"
                raise InputError(f"--{key}: a value is missing; write --{key} {value}")
            value = rest.pop(0)
        key = key.replace("-", "_")
        if key in overrides:
            raise InputError(f"--{key} is given twice")
        overrides[key] = value
    return overrides


def config_help() -> str:
    """One aligned line per key, group by group: name, default, meaning."""
    lines, group = [], None
    for name, field in FIELDS.items():
        if GROUP_OF[name] != group:
            group = GROUP_OF[name]
            lines.append(f"{group}:")
        default = "required" if field.is_required() else field.default
        lines.append(f"  --{name:26} {default!s:10} {field.description or ''}".rstrip())
    return "\n".join(lines)


def _is_boolean(key: str) -> bool:
    return key in FIELDS and FIELDS[key].annotation is bool


def _from_text(key: str, text: str) -> object:
    """none and null mean "not set" for the keys that may be unset; "none" is also a template. A
    mapping is written as JSON."""
    kinds = get_args(FIELDS[key].annotation) if key in FIELDS else ()
    if type(None) in kinds and text in ("none", "null"):
        return None
    if not any(get_origin(kind) is dict for kind in kinds):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise InputError(f"""{key}: expected JSON as '{{"name": true}}', got {text!r}""") from None


def _read_yaml(file: str) -> dict:
    path = Path(file).expanduser()
    if not path.is_file():
        raise InputError(f"--config {file}: no such file")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"--config {file}: not valid YAML: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"--config {file}: expected `key: value` lines")
    return values


def _where(key: str, file: str | None, overrides: Mapping[str, str]) -> str:
    return " on the command line" if key in overrides else f" in {file}"


def _one_line(error: ValidationError, file: str | None, overrides: Mapping[str, str]) -> str:
    first = error.errors()[0]
    key = str(first["loc"][1])
    if first["type"] == "missing":
        return f"{key}: required, not given; add `{key}: ...` to the config or --{key} VALUE"
    expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    meaning = FIELDS[key].description
    note = f" ({meaning})" if meaning else ""
    return f"{key}: expected {expected}{note}, got {first['input']!r}{_where(key, file, overrides)}"
