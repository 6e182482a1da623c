"""Runs interpreted_*.py with TRITON_INTERPRET=1, which needs a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def test_triton_kernels_match_the_reference_in_the_interpreter():
    here = Path(__file__).parent
    files = sorted(map(str, here.glob("interpreted_*.py")))
    assert len(files) == 3
    command = [sys.executable, "-m", "pytest", "-x", *files]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert "passed" in result.stdout and "failed" not in result.stdout
