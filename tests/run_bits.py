"""What two runs must have in common when one of them was stopped and resumed: every bit but times.

difference(Path("a/run"), Path("b/run")) -> None, or what differs first
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

NOT_COMPARED = ("time/", "tokens_per_s", "round_time", "memory/peak_bytes", "seconds")


def difference(one: Path, other: Path) -> str | None:
    """Logs, rollouts, and every checkpoint that both have; at least one."""
    for name in ("metrics.jsonl", "eval.jsonl"):
        if found := _first(f"{name}", _lines(one / name), _lines(other / name)):
            return found
    names = [sorted(p.name for p in (run / "rollouts").glob("*.jsonl")) for run in (one, other)]
    if found := _first("rollouts/", *names):
        return found
    for name in names[0]:
        path = f"rollouts/{name}"
        if found := _first(path, _lines(one / path), _lines(other / path)):
            return found
    checkpoints = [{p.name for p in (r / "checkpoints").glob("round-*")} for r in (one, other)]
    if not set.intersection(*checkpoints):
        return f"no checkpoint of both: {checkpoints}"
    for name in sorted(set.intersection(*checkpoints)):
        a, b = (run / "checkpoints" / name for run in (one, other))
        if found := checkpoint_difference(a, b):
            return f"{name}: {found}"
    return None


def checkpoint_difference(one: Path, other: Path) -> str | None:
    """Weights and the trainer's state, without the settings of the run."""
    for path in (one, other):
        if not (path / "trainer_state.pt").is_file():
            return f"{path} has no trainer_state.pt"
    names = sorted(p.name for p in one.glob("*.safetensors"))
    for name in names:
        if found := _different("", load_file(one / name), load_file(other / name)):
            return f"{name}{found}"
    states = [torch.load(p / "trainer_state.pt", weights_only=True) for p in (one, other)]
    for state in states:
        del state["settings"]
    found = _different("", *states)
    return found and f"trainer_state.pt{found}"


def _lines(path: Path) -> list[dict]:
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in x.items() if not k.startswith(NOT_COMPARED)} for x in lines]


def _first(where: str, one: list, other: list) -> str | None:
    """The first place of two lists that differs."""
    for index, (a, b) in enumerate(zip(one, other)):
        if a != b:
            keys = [k for k in {**a, **b} if a.get(k) != b.get(k)] if isinstance(a, dict) else ""
            return f"{where} line {index + 1} {keys}: {a} | {b}"
    if len(one) != len(other):
        return f"{where}: {len(one)} | {len(other)} lines"
    return None


def _different(where: str, one: object, other: object) -> str | None:
    if isinstance(one, dict) and isinstance(other, dict):
        if list(one) != list(other):
            return f"{where}: {list(one)} | {list(other)}"
        found = (_different(f"{where}[{key}]", one[key], other[key]) for key in one)
        return next((text for text in found if text), None)
    if isinstance(one, torch.Tensor):
        is_same = one.dtype == other.dtype and torch.equal(one.view(-1), other.view(-1))
        return None if is_same else f"{where}: tensors differ"
    return None if one == other else f"{where}: {one} | {other}"
