"""The benchmark runs on a tiny case, its lines carry what the tables need, and errors are small."""

import importlib.util
from pathlib import Path

import torch

from nsr_fast.bench.head_loss import Case, peaked_inputs, run_bench
from nsr_fast.bench.timing import peak_bytes

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--cpu", "--tokens", "64", "--vocab", "300", "--widths", "16", "--repeats", "1"]


def load_readme_table():
    spec = importlib.util.spec_from_file_location(
        "readme_table", ROOT / "benchmarks/readme_table.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_method_is_timed_or_says_why(capsys):
    lines = run_bench([*TINY, "--active", "0.5", "--no-rows", "--peers"])
    names = [line["backend"] for line in lines]
    assert names[:3] == ["three matmuls (floor)", "nsr_fast", "torch: cross_entropy(linear)"]
    for line in lines:
        assert line["shape"] == {"T": 64, "V": 300, "H": 16, "active": 0.5}
        assert line.get("median_ms", 0) > 0 or line["not_run"]
    ours = lines[1]
    assert ours["error_hidden"] < 1e-3 and ours["error_weight"] < 1e-3
    assert all(name in capsys.readouterr().out for name in names[:1])


def test_peaked_inputs_are_peaked_and_active_as_asked():
    case = Case(200, 500, 32, torch.float32, torch.device("cpu"), active=0.25)
    inputs = peaked_inputs(case)
    assert int((inputs.token_weight != 0).sum()) == 50
    assert inputs.entropy.median() < 0.5 < inputs.entropy.max()


def test_peak_memory_counts_what_is_freed_again():
    case = Case(8, 50, 4, torch.float32, torch.device("cpu"))

    def method(inputs):
        torch.ones(32 << 20).sum()

    peak = peak_bytes(method, peaked_inputs(case))
    assert peak is None or 120e6 < peak < 200e6


def test_readme_tables_come_from_the_lines(monkeypatch, tmp_path):
    table = load_readme_table()
    lines = run_bench([*TINY, "--active", "1.0", "--no-rows", "--no-errors"])
    monkeypatch.setattr(table, "read", lambda name: [*lines, {**lines[1], "median_ms": 12345.0}])
    text = table.fill("a\n<!-- table: linear_loss -->\nold\n<!-- end -->\nb\n")
    assert "old" not in text and text.startswith("a\n<!-- table: linear_loss -->\n")
    assert text.endswith("<!-- end -->\nb\n") and "Not yet measured on a GPU" in text
    assert text.count("| nsr_fast |") == 1 and "| 12345 |" in text
    assert table.fill(text) == text


def test_row_kernel_table_leaves_the_restoring_copy_out(monkeypatch):
    table = load_readme_table()
    times = {
        "nsr_fast cpu, x": 120.0,
        "copy of the tile": 20.0,
        "torch log_softmax + autograd": 800,
    }
    where = {"op": "row_stats_grad", "shape": {"T": 256}, "gpu": None, "cpu": "x", "threads": 1}
    lines = [
        {**where, "dtype": "float32", "mode": "rows", "backend": k, "cpu_ms": v}
        for k, v in times.items()
    ]
    monkeypatch.setattr(table, "read", lambda name: lines)
    rows = table.row_kernel().splitlines()[2:]
    assert rows[0] == "| nsr_fast cpu, x | 256 x 151936 float32 | 100 | 8.0 |"
    assert rows[1] == "| torch log_softmax + autograd | 256 x 151936 float32 | 800 | 1.0 |"


def test_lines_of_other_thread_counts_are_other_cases():
    table = load_readme_table()
    line = {"shape": {"T": 1}, "dtype": "float32", "gpu": None, "cpu": "x", "backend": "b"}
    lines = [{**line, "mode": "mean", "threads": n} for n in (1, 2, 2)]
    assert table.newest(lines) == lines[:2]
