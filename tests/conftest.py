"""Shared fixtures: random checkpoints of each family, made once per session."""

import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "examples" / "countdown")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach a model hub


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """checkpoint("qwen2" | "qwen3" | "llama") -> folder of a random float32 checkpoint."""
    from checkpoints import write_checkpoint

    made = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = write_checkpoint(tmp_path_factory.mktemp(family), family)
        return made[family]

    return get
