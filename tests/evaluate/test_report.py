import json
from html.parser import HTMLParser

import pytest

from nsr_fast.errors import InputError
from nsr_fast.evaluate import pass_at_k_curve, write_report
from nsr_fast.evaluate.chart import Series, line_chart, number, ticks


def write_run(folder, *, num_rounds=3, evaluated=(0, 3), counts_of=None):
    counts_of = counts_of or (lambda r: [r, 2 * r, 8, 0])
    rows = [
        {"round": r, "reward": -0.5 + 0.1 * r, "loss": None, "time/train": 0.5, "time/rollout": 1.0}
        for r in range(num_rounds)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = []
    for r in evaluated:
        counts = counts_of(r)
        c = pass_at_k_curve(counts, 8)
        curve = {"k": c.k, "pass_at_k": c.pass_at_k, "low": c.low, "high": c.high}
        line = {"round": r, "num_samples": 8, "num_prompts": 4, "num_correct": counts, **curve}
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
    assert words_of(text) == ["not resolved"] * 4  # k = 1, 2, 4, 8; two of four problems never move


def words_of(text):
    return [word for word in text if word in ("higher", "lower", "not resolved")]


@pytest.mark.parametrize(
    ("first", "last", "word", "difference"),
    [
        ([0, 1, 2, 0], [4, 5, 6, 4], "higher", "+0.5000"),
        ([4, 5, 6, 4], [0, 1, 2, 0], "lower", "-0.5000"),
        ([0, 4, 0, 4], [4, 0, 4, 0], "not resolved", "+0.0000"),
    ],
)
def test_report_says_which_way_a_difference_goes(tmp_path, first, last, word, difference):
    """The problems all move by 4 of 8 samples, or by as much up as down."""
    write_run(tmp_path, counts_of=lambda r: last if r else first)
    text = parsed(write_report(tmp_path)).text
    assert words_of(text)[0] == word  # Pass@1
    assert difference in text


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


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-0.3, 0.3, [-0.2, 0, 0.2]), (3, 7, [3, 4, 5, 6, 7])],
)
def test_ticks_are_round_numbers_inside_the_axis(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.25"), (12345, "1.23e4"), (2e-5, "2e-5"), (-3.0, "-3")]
)
def test_number_is_short(value, text):
    assert number(value) == text


def test_chart_of_constant_series_and_gap_has_finite_coordinates():
    svg = line_chart([Series("a", [0, 1, 2], [1.0, None, 1.0])], title="t", x_label="x")
    assert "nan" not in svg and "inf" not in svg
    assert svg.count('<path class="line') == 2
