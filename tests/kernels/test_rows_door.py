"""Choice of the backend, and what importing the package may not do."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nsr_fast.kernels import rows

ROOT = Path(__file__).resolve().parents[2]


def test_every_backend_is_usable_or_says_why():
    available = rows.available_backends()
    assert list(available) == ["cuda", "triton", "cpu", "reference"]
    assert available["cpu"] is None and available["reference"] is None
    assert all(reason is None or reason for reason in available.values())


def test_auto_takes_the_compiled_kernel_where_it_serves():
    cpu = torch.device("cpu")
    assert rows.resolve_backend("auto", cpu, torch.float32) == "cpu"
    assert rows.resolve_backend("auto", cpu, torch.bfloat16) == "cpu"
    assert rows.resolve_backend("auto", cpu, torch.float64) == "reference"
    assert rows.resolve_backend("auto", torch.device("meta"), torch.float32) == "reference"


def test_a_dtype_the_named_backend_lacks_is_refused():
    with pytest.raises(ValueError, match=r"'cpu' takes logits of float32, bfloat16, got torch.flo"):
        rows.resolve_backend("cpu", torch.device("cpu"), torch.float64)


def test_a_device_the_named_backend_lacks_is_refused():
    with pytest.raises(ValueError, match="'cpu' works on CPU tensors, not on meta"):
        rows.resolve_backend("cpu", torch.device("meta"), torch.float32)


def test_an_absent_backend_raises_with_its_reason(monkeypatch):
    monkeypatch.setitem(rows._MODULES, "cuda", "nsr_fast.kernels.rows_that_are_not_there")
    with pytest.raises(RuntimeError, match="backend 'cuda' is not available: cannot import"):
        rows.resolve_backend("cuda", torch.device("cuda"), torch.float32)


def test_importing_the_operations_loads_no_heavy_package():
    code = (
        "import sys, nsr_fast; from nsr_fast import linear_policy_loss, linear_logprobs; "
        "print([m for m in ('vllm', 'transformers', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    heavy = done.stdout.strip()
    assert heavy in ("[]", "['sympy']"), done.stderr  # torch itself imports sympy
