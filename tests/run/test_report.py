import json
import re
from html.parser import HTMLParser

import pytest

from nsr_fast.errors import InputError
from nsr_fast.evaluate import pass_at_k_curve
from nsr_fast.run.chart import Chart, Series, number
from nsr_fast.run.report import write_report


def write_run(folder, *, num_rounds=3, evaluated=(0, 3), counts=None):
    rows = [
        {"round": r, "reward": -0.5 + 0.1 * r, "loss": None, "time/train": 0.5, "time/rollout": 1.0}
        for r in range(num_rounds)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = []
    counts = counts or {r: [r, 2 * r, 8, 0] for r in evaluated}
    for r, correct in counts.items():
        c = pass_at_k_curve(correct, 8)
        curve = {"k": c.k, "pass_at_k": c.pass_at_k, "low": c.low, "high": c.high}
        line = {"round": r, "num_samples": 8, "num_prompts": 4, "num_correct": correct, **curve}
        lines.append(json.dumps(line) + "\n")
    (folder / "eval.jsonl").write_text("".join(lines))
    (folder / "config.yaml").write_text("objective: nsr\nmodel: '<tiny> & co'\n")


class Tags(HTMLParser):
    """Counts start tags, checks that they close, collects texts and attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.count, self.text, self.links = [], {}, [], []

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in ("meta", "path", "circle"):
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag):
        if tag != "circle":
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())


def parsed(path):
    tags = Tags()
    tags.feed(path.read_text())
    assert tags.open == []
    return tags


def test_report_is_one_wellformed_file_without_external_resources(tmp_path):
    write_run(tmp_path)
    path = write_report(tmp_path)
    tags = parsed(path)
    assert path == tmp_path / "report.html"
    assert tags.links == [] and "script" not in tags.count and "url(" not in path.read_text()
    assert tags.count["svg"] == 3  # Pass@k, reward, time by phase; loss has no number
    assert path.read_text().count('role="img" aria-label=') == 3
    assert "<tiny> & co" in tags.text


def test_report_shows_the_paired_difference(tmp_path):
    write_run(tmp_path)
    text = parsed(write_report(tmp_path)).text
    assert "+0.2812" in text  # mean of (3/8, 6/8, 0, 0)
    assert "Pass@k before and after" in text
    assert [word for word in text if word in VERDICTS] == ["not resolved"] * 4  # k = 1, 2, 4, 8


VERDICTS = ("higher", "lower", "not resolved")


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [([1, 2, 1, 2], [5, 6, 5, 6], "higher"), ([5, 6, 5, 6], [1, 2, 1, 2], "lower")],
)
def test_report_says_in_which_direction_a_difference_is_resolved(tmp_path, before, after, verdict):
    write_run(tmp_path, counts={0: before, 3: after})
    text = parsed(write_report(tmp_path)).text
    found = [word for word in text if word in VERDICTS]
    assert found == [verdict] * 3 + ["not resolved"]  # Pass@8 of 8 samples is 1 on both sides


@pytest.mark.parametrize("evaluated", [(), (0,), (0, 1, 2)])
def test_report_takes_any_number_of_evaluations(tmp_path, evaluated):
    write_run(tmp_path, evaluated=evaluated)
    tags = parsed(write_report(tmp_path))
    assert tags.count["svg"] == 2 + {0: 0, 1: 1, 3: 2}[len(evaluated)]


def test_report_of_one_round_and_of_an_unfinished_line(tmp_path):
    write_run(tmp_path, num_rounds=1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 1, "rew')
    assert parsed(write_report(tmp_path)).count["svg"] == 3


def test_report_errors_name_the_place(tmp_path):
    with pytest.raises(InputError, match="found neither"):
        write_report(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"round": 0}\n{oops\n{"round": 1}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl:2: broken JSON"):
        write_report(tmp_path)


def test_report_puts_every_chart_beside_itself_as_png(tmp_path):
    write_run(tmp_path)
    write_report(tmp_path)
    names = sorted(path.name for path in (tmp_path / "charts").iterdir())
    assert names == ["pass-k.png", "reward.png", "time-of-a-round.png"]
    assert (tmp_path / "charts" / names[0]).read_bytes().startswith(b"\x89PNG")


def test_the_same_run_gives_the_same_bytes(tmp_path):
    write_run(tmp_path)
    charts = ("charts/pass-k.png", "charts/reward.png", "report.html")
    made = []
    for _ in range(2):
        write_report(tmp_path)
        made.append([(tmp_path / name).read_bytes() for name in charts])
    assert made[0] == made[1]


def svg_of(y, **options):
    return Chart("t", [Series("a", list(range(len(y))), y)], **options).svg()


def y_labels(svg):
    """The labels of the y axis, which are set flush right."""
    texts = re.findall(r"<text ([^>]*)>([^<]*)</text>", svg)
    return [float(text) for style, text in texts if "text-anchor: end" in style]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-0.3, 0.3, [-0.2, 0, 0.2]), (3, 7, [3, 4, 5, 6, 7])],
)
def test_ticks_are_round_numbers_inside_the_axis(low, high, expected):
    assert y_labels(svg_of([low, high], scale="free")) == pytest.approx(expected)


def test_a_share_starts_at_zero_and_a_log_axis_shows_decades():
    assert y_labels(svg_of([0.7, 0.79])) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert y_labels(svg_of([0.0, 0.0])) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert y_labels(svg_of([0.0, 2e-7, 3e-6], scale="log")) == pytest.approx([1e-7, 1e-6, 1e-5])


def test_rounds_are_whole_numbers_even_when_there_is_one():
    texts = re.findall(r"text-anchor: middle[^>]*>([^<]*)<", svg_of([0.5]))
    assert texts == ["0", "round"]
    texts = re.findall(r"text-anchor: middle[^>]*>([^<]*)<", svg_of([0.5, 0.6, 0.7]))
    assert texts == ["0", "1", "2", "round"]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.25"), (12345, "1.23e4"), (2e-5, "2e-5"), (-3.0, "-3")]
)
def test_number_is_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize("scale", ["free", "from zero", "log", "stacked"])
def test_chart_of_constant_series_and_gap_has_finite_coordinates(scale):
    svg = svg_of([1.0, None, 1.0], scale=scale)
    assert "nan" not in svg and "inf" not in svg
    assert svg.count("<circle") == (0 if scale == "stacked" else 2)
    assert "a from 1 at 0 to 1 at 2" in svg


@pytest.mark.parametrize(
    "options",
    [
        {"y": [0.0, 0.0], "scale": "log"},  # no drift at all
        {"y": [float("inf"), None, 2.0]},
        {"y": [None, None], "scale": "stacked"},
    ],
)
def test_charts_of_odd_values_have_finite_coordinates(options):
    svg = svg_of(**options)
    assert "nan" not in svg and "inf" not in svg


def test_pass_at_k_of_one_sample(tmp_path):
    line = {"round": 0, "num_samples": 1, "num_prompts": 2, "num_correct": [0, 1]}
    line |= {"k": [1], "pass_at_k": [0.5], "low": [0.0], "high": [1.0]}
    (tmp_path / "eval.jsonl").write_text(json.dumps(line))
    assert parsed(write_report(tmp_path)).count["svg"] == 1
    assert "nan" not in (tmp_path / "report.html").read_text()


def test_a_gap_cuts_the_line():
    line = re.search(
        r'<path d="([^"]*)" style="fill: none; stroke: var\(--blue\)', svg_of([1, 2, None, 2, 1])
    )
    assert line[1].count("M") == 2 and line[1].count("L") == 2


def test_areas_stand_on_each_other_and_one_round_is_a_bar():
    for x in ([1, 2], [1]):
        parts = [Series("a", x, [3.0] * len(x)), Series("b", x, [5.0] * len(x))]
        svg = Chart("t", parts, scale="stacked").svg()
        areas = re.findall(r'<path d="([^"]*)z\s*" style="fill: var\(--(?:blue|orange)\)', svg)
        (a_top, a_low), (b_top, b_low) = (edges(area) for area in areas[:2])
        assert b_low == a_top and (a_low - b_top) / (a_low - a_top) == pytest.approx(8 / 3)


def edges(area):
    """Smallest and largest y of a path (pixels grow downwards)."""
    ys = [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", area)]
    return min(ys), max(ys)


def test_a_chart_takes_every_colour_from_the_page():
    svg = svg_of([1.0, 2.0])
    assert set(re.findall(r"(?:fill|stroke): *([^;\"]+)", svg)) <= {
        "none",
        "var(--blue)",
        "var(--soft)",
        "var(--rule)",
    }


def test_a_long_line_has_a_bounded_number_of_tooltips():
    assert svg_of([float(i % 7) for i in range(2001)]).count("<title>") <= 250
