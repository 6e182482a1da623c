"""Every key that a real run writes is declared, and every chart that it can have is drawn."""

import json
import re
from pathlib import Path

import pytest

from nsr_fast.cli import main
from nsr_fast.run.metrics import METRICS, find_metric
from nsr_fast.run.report import training_charts

ROOM = Path(__file__).parents[2] / "nsr_fast"
CUDA_ONLY = {"memory/kv_bytes", "memory/kv_released_bytes", "memory/kv_regained_bytes"}
OTHER_RUNS = {"verify/p50_ms", "verify/p99_ms", "code/", "logged/"}  # a worker, programs, own
OTHER_RUNS |= {"psr_weight", "guards/"}  # w_reinforce, guards that are met
OTHER_CHARTS = {"Verifier latency", "Weight of correct rollouts"}


@pytest.fixture(scope="module")
def rounds(tmp_path_factory, checkpoint):
    """The lines of metrics.jsonl of a run with the mathematics reward and two minibatches."""
    folder = tmp_path_factory.mktemp("metrics")
    rows = [{"problem": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(4)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"model": checkpoint("qwen2"), "data": folder / "data.jsonl", "reward": "math"}
    keys |= {"template": "none", "engine": "transformers", "output_dir": folder / "run"}
    keys |= {"max_rounds": 1, "prompts_per_round": 2, "num_generations": 4, "minibatches": 2}
    keys |= {"max_completion_length": 6, "cpu_threads": 1}
    keys |= dict.fromkeys(("max_truncated", "max_no_answer", "first_correct_rounds"), "none")
    assert main(["train", *(word for k, v in keys.items() for word in (f"--{k}", str(v)))]) == 0
    return [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]


def test_every_key_of_a_run_is_declared_and_every_declaration_has_a_key(rounds):
    keys = {key for row in rounds for key in row}
    assert {key for key in keys if find_metric(key) is None} == set()
    written = {find_metric(key).name for key in keys}
    declared = {metric.name for metric in METRICS}
    assert CUDA_ONLY <= declared - written <= CUDA_ONLY | OTHER_RUNS


def test_every_declared_chart_is_drawn(rounds):
    titles = [c.title for c in training_charts(rounds) if c.title not in OTHER_CHARTS]
    declared = list(dict.fromkeys(metric.chart for metric in METRICS if metric.chart))
    titles = [title for title in titles if title not in OTHER_CHARTS]
    assert titles == [title for title in declared if title not in OTHER_CHARTS]
    full = [{metric.name: 0.5 for metric in METRICS} | {"time/train": 0.5}] * 2
    assert [chart.title for chart in training_charts(full)] == declared


def test_the_engine_reports_declared_memory_only():
    source = (ROOM / "rollout" / "vllm_memory.py").read_text()
    assert set(re.findall(r'"(memory/\w+)"', source)) == CUDA_ONLY


def test_names_are_declared_once_and_charts_agree():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for title in {metric.chart for metric in METRICS if metric.chart}:
        drawn = [metric for metric in METRICS if metric.chart == title]
        assert len({(metric.unit, metric.scale) for metric in drawn}) == 1
        assert len({metric.label for metric in drawn}) == len(drawn)


@pytest.mark.parametrize(
    ("key", "declared"),
    [
        ("reward", "reward"),
        ("verify/p50_ms", "verify/p50_ms"),
        ("verify/reason/deadline", "verify/"),
        ("code/correct", "code/"),
        ("time/rollout", "time/"),
        ("time", None),
        ("signal_fraction", None),
    ],
)
def test_a_key_is_found_by_its_name_then_by_its_family(key, declared):
    found = find_metric(key)
    assert (found and found.name) == declared
