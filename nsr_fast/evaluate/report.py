"""report.html of a run: Pass@k before and after, training curves, the configuration.

One self-contained file (inline SVG and CSS, no script, no external resource) made from
metrics.jsonl, eval.jsonl and config.yaml of a run directory. Absent keys are left out.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from html import escape
from math import isfinite
from pathlib import Path

import yaml

from nsr_fast.errors import InputError
from nsr_fast.evaluate.chart import Series, legend, line_chart, number
from nsr_fast.evaluate.pass_at_k import paired_difference
from nsr_fast.evaluate.report_style import CSS

# (title, unit, {key: name}, the axis starts at zero)
_CHARTS = (
    ("Reward", "mean of scored rollouts", {"reward": "reward"}, False),
    ("Entropy", "nats per token", {"entropy": "entropy"}, True),
    ("Loss", "", {"loss": "loss"}, False),
    ("Gradient norm", "before clipping", {"grad_norm": "gradient norm"}, True),
    ("Completion length", "tokens, mean", {"completion_length_mean": "length"}, True),
    ("Throughput", "tokens/s", {"tokens_per_s": "tokens/s"}, True),
    (
        "Rollouts left out",
        "share",
        {"truncated_fraction": "truncated", "unscored_fraction": "unscored"},
        True,
    ),
    ("Signal", "share of rollouts trained on", {"signal_fraction": "signal"}, True),
    ("Clipped tokens", "share", {"clip_fraction": "clipped"}, True),
    (
        "Trainer-engine drift",
        "nats, absolute",
        {"drift_mean": "mean", "drift_max": "maximum"},
        True,
    ),
)


def write_report(run_dir: str | Path) -> Path:
    """Writes run_dir/report.html and returns its path.

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
    path = run_dir / "report.html"
    path.write_text(_page(run_dir.resolve().name, config, metrics, evaluations), encoding="utf-8")
    return path


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


def _page(name: str, config: Mapping, metrics: list[dict], evaluations: list[dict]) -> str:
    title = f"{name}: {config['objective']}" if config.get("objective") else name
    sections = [_summary(config, metrics, evaluations), _pass_at_k_section(evaluations)]
    sections += [_training_section(metrics), _config_section(config)]
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


def _pass_at_k_section(evaluations: list[dict]) -> str:
    if not evaluations:
        return ""
    first, last = evaluations[0], evaluations[-1]
    shown = [first] if first is last else [first, last]
    series = [
        Series(f"round {e['round']}", e["k"], e["pass_at_k"], e["low"], e["high"]) for e in shown
    ]
    chart = line_chart(series, title="Pass@k", x_label="k", is_log2=True, width=740, height=330)
    heading = "Pass@k" if first is last else "Pass@k before and after"
    return (
        f"<h2>{heading}</h2>\n<p class='soft'>Share of {last['num_prompts']} problems solved by at "
        f"least one of k samples (unbiased, from {last['num_samples']} samples each); bands are "
        "95 % bootstrap intervals over problems.</p>\n"
        f'<figure class="wide">{legend(series)}{chart}</figure>\n'
        f"{_pass_at_k_table(shown)}{_along_the_run(evaluations)}"
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
    return bool(a and b) and len(a) == len(b) and first["num_samples"] == last["num_samples"]


def _with_interval(evaluation: Mapping, i: int) -> str:
    mean, low, high = (evaluation[key][i] for key in ("pass_at_k", "low", "high"))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _direction(low: float, high: float) -> tuple[str, str]:
    if low > 0:
        return "up", "higher"
    return ("down", "lower") if high < 0 else ("", "not resolved")


def _along_the_run(evaluations: list[dict]) -> str:
    """Pass@1 and Pass@(largest k) over rounds: an end point alone hides how the policy moved."""
    if len(evaluations) < 3:
        return ""
    ks = sorted(set.intersection(*(set(e["k"]) for e in evaluations)))
    rounds = [e["round"] for e in evaluations]
    series = []
    for k in dict.fromkeys((ks[-1], ks[0])):
        at = [e["k"].index(k) for e in evaluations]
        columns = ([e[key][i] for e, i in zip(evaluations, at)] for key in _CURVE_KEYS)
        series.append(Series(f"Pass@{k}", rounds, *columns))
    chart = line_chart(series, title="Pass@k along the run", x_label="round", width=740, height=280)
    figure = f'<figure class="wide">{legend(series)}{chart}</figure>'
    return f"<h2>Pass@k along the run</h2>\n{figure}\n"


_CURVE_KEYS = ("pass_at_k", "low", "high")


def _training_section(metrics: list[dict]) -> str:
    if not metrics:
        return ""
    rounds = [row.get("round", i) for i, row in enumerate(metrics)]
    figures = [
        _figure(title, unit, series, starts_at_zero=at_zero)
        for title, unit, names, at_zero in _CHARTS
        if (series := _series(metrics, rounds, names))
    ]
    phases = dict.fromkeys(key for row in metrics for key in row if key.startswith("time/"))
    times = _series(metrics, rounds, {key: key.removeprefix("time/") for key in phases})
    if times:
        figures.append(_figure("Time per round", "s, by phase", times, is_stacked=True))
    charts = "\n".join(figures)
    return f'<h2>Training</h2>\n<div class="grid-of-charts">\n{charts}\n</div>\n'


def _series(metrics: list[dict], rounds: Sequence, names: Mapping[str, str]) -> list[Series]:
    """The keys that hold at least one finite number."""
    found = []
    for key, name in names.items():
        values = [row[key] if _is_number(row.get(key)) else None for row in metrics]
        if any(value is not None for value in values):
            found.append(Series(name, rounds, values))
    return found


def _figure(title: str, unit: str, series: list[Series], **options: bool) -> str:
    chart = line_chart(series, title=title, x_label="round", **options)
    last = "" if len(series) > 1 else f"last {number(_last(series[0]))}"
    note = ", ".join(text for text in (unit, last) if text)
    kind = "" if len(series) > 1 else ' class="only"'
    keys = legend(series) if len(series) > 1 else ""
    return f"<figure{kind}><h3>{title}<small>{escape(note)}</small></h3>{keys}{chart}</figure>"


def _last(series: Series) -> float:
    return [value for value in series.y if value is not None][-1]


def _config_section(config: Mapping) -> str:
    if not config:
        return ""
    rows = [
        f'<tr><th scope="row"><code>{escape(str(key))}</code></th>'
        f'<td class="text">{escape(str(value))}</td></tr>'
        for key, value in config.items()
    ]
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
