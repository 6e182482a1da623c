"""What sharing saves, as benchmarks/bench_shared_weights.py measures it on 100 M parameters."""

import importlib.util
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_shared_weights.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="measures the resident set of a CPU run")
def test_sharing_saves_a_copy_of_the_weights_and_the_sync():
    pytest.importorskip("vllm")
    spec = importlib.util.spec_from_file_location("bench_shared_weights", SCRIPT)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    lines = bench.compare(layers=14, hidden=768, vocab=32_003, completion=8)
    shared, copied = lines
    assert shared["weights_bytes"] > 400e6
    assert bench.copies_saved(lines) > 0.95  # malloc's own slack aside
    assert shared["sync_ms"] < 1.0 < copied["sync_ms"]
    assert shared["drift_mean"] < 1e-4
