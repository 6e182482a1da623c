"""report.html of a run: Pass@k before and after, training curves, the configuration.

One self-contained file (inline SVG and CSS, no script, no external resource) made from
metrics.jsonl, eval.jsonl and config.yaml of a run directory; the same charts as PNG in charts/.
Training charts are those that metrics.METRICS declares; absent keys are left out.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from html import escape
from math import isfinite
from pathlib import Path

import yaml

from nsr_fast.errors import InputError
from nsr_fast.evaluate.pass_at_k import paired_difference
from nsr_fast.run.chart import Chart, Series, number
from nsr_fast.run.metrics import METRICS, Metric, find_metric
from nsr_fast.run.report_style import CSS

_WIDE = {"width": 520, "height": 320}
_CURVE = ("pass_at_k", "low", "high")


def write_report(run_dir: str | Path) -> Path:
    """Writes run_dir/report.html and run_dir/charts/*.png; returns the path of the former.

    Raises InputError when run_dir holds neither metrics.jsonl nor eval.jsonl, or a broken line.
    """
    run_dir = Path(run_dir)
    metrics = _read_lines(run_dir / "metrics.jsonl")
    evaluations = _read_lines(run_dir / "eval.jsonl")
    if not metrics and not evaluations:
        raise InputError(
            f"run: {run_dir}: expected metrics.jsonl or eval.jsonl of a run, found neither"
        )
    config = _read_config(run_dir / "config.yaml")
    curves, training = pass_at_k_charts(evaluations), training_charts(metrics)
    sections = [_summary(config, metrics, evaluations), _pass_at_k_section(evaluations, curves)]
    suspects = _read_lines(run_dir / "suspicious_golds.jsonl")
    sections += [_training_section(metrics, training), _suspects_section(suspects)]
    sections += [_config_section(config)]
    name = run_dir.resolve().name
    title = f"{name}: {config['objective']}" if config.get("objective") else name
    path = run_dir / "report.html"
    path.write_text(_page(title, sections), encoding="utf-8")
    (run_dir / "charts").mkdir(exist_ok=True)
    for chart in (*curves, *training):
        name = re.sub(r"[^a-z0-9]+", "-", chart.title.lower()).strip("-")
        chart.save_png(run_dir / "charts" / f"{name}.png")
    return path


def pass_at_k_charts(evaluations: list[dict]) -> list[Chart]:
    """Pass@k before and after, and its course over rounds, as far as there are evaluations.

    Pass@1 and Pass@(largest k) over rounds: an end point alone hides how the policy moved.
    """
    if not evaluations:
        return []
    first, last = evaluations[0], evaluations[-1]
    after = Series(f"round {last['round']}", last["k"], *(last[key] for key in _CURVE))
    before = Series(f"round {first['round']}", first["k"], *(first[key] for key in _CURVE), True)
    ends = [after] if first is last else [before, after]
    charts = [Chart("Pass@k", ends, x_label="k", is_log2=True, scale="free", **_WIDE)]
    if len(evaluations) > 2:
        ks = sorted(set.intersection(*(set(e["k"]) for e in evaluations)))
        rounds, course = [e["round"] for e in evaluations], []
        for k in dict.fromkeys((ks[-1], ks[0])):
            columns = ([e[key][e["k"].index(k)] for e in evaluations] for key in _CURVE)
            course.append(Series(f"Pass@{k}", rounds, *columns))
        charts.append(Chart("Pass@k along the run", course, scale="free", **_WIDE))
    return charts


def training_charts(metrics: list[dict]) -> list[Chart]:
    """The charts that METRICS declares, of the keys that hold at least one finite number."""
    keys = dict.fromkeys(key for row in metrics for key in row)
    declared = {key: metric for key in keys if (metric := find_metric(key)) and metric.chart}
    charts = []
    for title in dict.fromkeys(metric.chart for metric in METRICS if metric.chart):
        drawn = {key: metric for key, metric in declared.items() if metric.chart == title}
        series = [found for key, m in drawn.items() if (found := _over_rounds(metrics, key, m))]
        if series:
            first = next(iter(drawn.values()))
            charts.append(Chart(title, series, first.unit, scale=first.scale))
    return charts


def _read_lines(path: Path) -> list[dict]:
    """Objects of a JSONL file, [] if it is absent; an unfinished last line is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    objects = []
    for i, line in enumerate(lines, 1):
        try:
            objects.append(json.loads(line))
        except json.JSONDecodeError as error:
            if i < len(lines):
                raise InputError(f"run: {path}:{i}: broken JSON: {error.msg}") from None
    return [item for item in objects if isinstance(item, dict)]


def _read_config(path: Path) -> dict:
    if not path.exists():
        return {}
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    return config if isinstance(config, dict) else {}


def _page(title: str, sections: Sequence[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{''.join(sections)}</body>\n</html>\n"
    )


def _summary(config: Mapping, metrics: list[dict], evaluations: list[dict]) -> str:
    facts = [(str(config[key]), key) for key in ("model", "data", "reward") if config.get(key)]
    if metrics:
        facts.append((str(len(metrics)), "rounds"))
        seconds = sum(_phases(row) for row in metrics)
        if seconds:
            facts.append((str(timedelta(seconds=round(seconds))), "time in rounds"))
    if evaluations:
        last = evaluations[-1]
        facts.append((f"{last['num_prompts']} x {last['num_samples']}", "evaluation samples"))
    items = "".join(f"<li><b>{escape(v)}</b><span>{escape(n)}</span></li>" for v, n in facts)
    return f'<ul class="facts">{items}</ul>\n'


def _phases(row: Mapping) -> float:
    return sum(v for k, v in row.items() if k.startswith("time/") and _is_number(v))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _pass_at_k_section(evaluations: list[dict], charts: Sequence[Chart]) -> str:
    if not evaluations:
        return ""
    first, last = evaluations[0], evaluations[-1]
    shown = [first] if first is last else [first, last]
    heading = "Pass@k" if first is last else "Pass@k before and after"
    return (
        f"<h2>{heading}</h2>\n<p class='soft'>Share of {last['num_prompts']} problems solved by at "
        f"least one of k samples (unbiased, from {last['num_samples']} samples each); bands are "
        "95 % bootstrap intervals over problems.</p>\n"
        f'<div class="pair">\n{_figures(charts)}\n</div>\n{_pass_at_k_table(shown)}'
    )


def _pass_at_k_table(shown: list[dict]) -> str:
    """Pass@k of the shown evaluations and, where they are comparable, their paired difference."""
    first, last = shown[0], shown[-1]
    is_paired = len(shown) == 2 and _is_comparable(first, last)
    heads = ["k", *(f"round {e['round']}" for e in shown)]
    heads += ["difference", "95 % interval", ""] if is_paired else []
    rows = []
    for i, k in enumerate(first["k"]):
        cells = [str(k), *(_with_interval(e, i) for e in shown if i < len(e["k"]))]
        kind = ""
        if is_paired:
            d = paired_difference(first["num_correct"], last["num_correct"], last["num_samples"], k)
            kind, word = _direction(d.low, d.high)
            cells += [f"{d.mean:+.4f}", f"[{d.low:+.4f}, {d.high:+.4f}]", word]
        rows.append(_row(cells, kind))
    caption = "Pass@k with 95 % intervals"
    caption += "; difference paired problem by problem" if is_paired else ""
    return _table(caption, heads, rows)


def _is_comparable(first: Mapping, last: Mapping) -> bool:
    a, b = first.get("num_correct"), last.get("num_correct")
    is_same = first.get("measured") == last.get("measured")
    return bool(a and b) and is_same and first["num_samples"] == last["num_samples"]


def _with_interval(evaluation: Mapping, i: int) -> str:
    mean, low, high = (evaluation[key][i] for key in ("pass_at_k", "low", "high"))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _direction(low: float, high: float) -> tuple[str, str]:
    if low > 0:
        return "up", "higher"
    return ("down", "lower") if high < 0 else ("soft", "not resolved")


def _over_rounds(metrics: list[dict], key: str, metric: Metric) -> Series | None:
    """One key's line, None when it holds no finite number."""
    values = [row[key] if _is_number(row.get(key)) else None for row in metrics]
    if all(value is None for value in values):
        return None
    rounds = [row.get("round", i) for i, row in enumerate(metrics)]
    return Series(metric.label or key.removeprefix(metric.name) or metric.name, rounds, values)


def _training_section(metrics: list[dict], charts: Sequence[Chart]) -> str:
    if not metrics:
        return ""
    figures = f'<div class="grid-of-charts">\n{_figures(charts)}\n</div>'
    return f"<h2>Training</h2>\n{figures}\n{_meanings(metrics)}"


def _figures(charts: Sequence[Chart]) -> str:
    figures = []
    for chart in charts:
        is_single = len(chart.series) == 1 and chart.x_label == "round"
        last = f"last {number(chart.series[0].points()[-1][1])}" if is_single else ""
        note = escape(", ".join(text for text in (chart.unit, last) if text))
        heading = f"<h3>{chart.title}<small>{note}</small></h3>"
        figures.append(f"<figure>{heading}{chart.svg()}</figure>")
    return "\n".join(figures)


def _meanings(metrics: list[dict]) -> str:
    """What each key of metrics.jsonl says."""
    rows = [
        _text_row(key, f"{m.meaning} [{m.unit}]" if m.unit else m.meaning)
        for key in dict.fromkeys(key for row in metrics for key in row)
        if (m := find_metric(key))
    ]
    table = _table("keys of metrics.jsonl", ["key", "meaning [unit]"], rows)
    return f"<details><summary>What the numbers mean</summary>{table}</details>\n"


def _text_row(key: str, text: str) -> str:
    return (
        f'<tr><th scope="row"><code>{escape(key)}</code></th>'
        f'<td class="text">{escape(text)}</td></tr>'
    )


def _suspects_section(suspects: list[dict]) -> str:
    """Prompts whose rollouts agreed in several rounds on one answer that the gold calls wrong."""
    if not suspects:
        return ""
    heads = ["prompt", "rounds", "rollouts that agree", "they agree on", "gold"]
    rows = []
    for s in suspects:
        votes = f"{s['rollouts']} of {s['of']}"
        cells = [s["id"], str(s["rounds"]), votes, s["agreed_on"], str(s["answer"])]
        rows.append(_row(cells, "text"))
    return (
        "<h2>Suspicious golds</h2>\n<p class='soft'>No rollout was right and at least half of them "
        "gave the same wrong answer, again and again: look whether the gold is right.</p>\n"
        f"{_table('suspicious_golds.jsonl', heads, rows)}"
    )


def _config_section(config: Mapping) -> str:
    if not config:
        return ""
    rows = [_text_row(str(key), str(value)) for key, value in config.items()]
    table = _table("config.yaml, resolved", ["key", "value"], rows)
    return f"<h2>Configuration</h2>\n<details><summary>All keys</summary>{table}</details>\n"


def _table(caption: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "\n".join(rows)
    return (
        f'<div class="scroll"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>\n"
    )


def _row(cells: Sequence[str], kind: str) -> str:
    head, *others = cells
    columns = "".join(f"<td>{escape(cell)}</td>" for cell in others[:-1])
    last = f'<td class="{kind}">{escape(others[-1])}</td>' if others else ""
    return f'<tr><th scope="row">{escape(head)}</th>{columns}{last}</tr>'
