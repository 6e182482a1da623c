"""Charts by matplotlib: inline SVG for the report, and a PNG that stands alone.

The SVG takes its colours from the page's CSS variables and its font from the page: one drawing
serves light and dark. It is an image with a description in words, every point has a tooltip, and
it holds no id, no script and no reference. The same data give the same bytes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from math import ceil, floor, isfinite, log10, nan
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from nsr_fast.run.report_style import LIGHT

_LINES = ("blue", "orange", "green", "purple", "amber", "grey")
_MAX_MARKERS, _MAX_TOOLTIPS = 25, 250
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "nsr_fast", "font.family": "DejaVu Sans"}
_STYLE |= {"text.color": LIGHT["ink"], "axes.labelcolor": LIGHT["soft"], "font.size": 11}
_STYLE |= {"xtick.color": LIGHT["soft"], "ytick.color": LIGHT["soft"], "axes.titlesize": 12}
_STYLE |= {"axes.edgecolor": LIGHT["soft"], "axes.linewidth": 1.0, "axes.labelsize": 11}


@dataclass(frozen=True, slots=True)
class Series:
    """One line; low and high, when given, are drawn as a band around it.

    is_baseline  grey and dashed: what the others are compared with
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    is_baseline: bool = False

    def points(self) -> list[tuple[int, float, float]]:
        """(index, x, y) of the finite points."""
        pairs = enumerate(zip(self.x, self.y, strict=True))
        return [(i, x, y) for i, (x, y) in pairs if y is not None and isfinite(y)]


@dataclass(frozen=True, slots=True)
class Chart:
    """The series over one pair of axes; width and height in pixels of the page.

    scale    of the y axis: "from zero", "free", "log", or "stacked" (areas; the series share x)
    is_log2  the x axis shows powers of two (k of Pass@k)
    """

    title: str
    series: Sequence[Series]
    unit: str = ""
    x_label: str = "round"
    scale: str = "from zero"
    is_log2: bool = False
    width: int = 340
    height: int = 190

    def svg(self) -> str:
        """An <svg> element for a page whose style sheet is report_style.CSS."""
        with rc_context(_STYLE):
            figure, text = _drawn(self, stands_alone=False), StringIO()
            no_date = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(text, format="svg", transparent=True, metadata=no_date)
        body = re.sub(r"<defs>.*?</defs>", "", text.getvalue(), count=1, flags=re.DOTALL)
        body = body[body.index("<g") : body.rindex("</svg>")]
        body = re.sub(r'\s*\n\s*| id="[^"]*"', " ", body.replace("font-family: 'DejaVu Sans';", ""))
        for name, colour in LIGHT.items():
            body = body.replace(colour, f"var(--{name})")
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title)}: {escape(_described(self.series))}">'
            f"{body}{_tooltips(self, figure)}</svg>"
        )

    def save_png(self, path: Path) -> None:
        """The chart with its title and the names of its lines, at twice its size."""
        with rc_context(_STYLE):
            _drawn(self, stands_alone=True).savefig(path, dpi=144, metadata={"Software": None})

    def legend(self) -> str:
        """The names of the series beside their colours, as HTML."""
        keys = zip(self.series, self.colours(), strict=True)
        items = "".join(
            f'<li><span class="key" style="background: var(--{colour})"></span>'
            f"{escape(series.name)}</li>"
            for series, colour in keys
        )
        return f'<ul class="legend">{items}</ul>'

    def colours(self) -> list[str]:
        """Names of report_style's colours, one a series."""
        names = iter(_LINES * (1 + len(self.series) // len(_LINES)))
        return ["grey" if s.is_baseline else next(names) for s in self.series]


def number(value: float) -> str:
    """At most four significant digits."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"


def _drawn(chart: Chart, *, stands_alone: bool) -> Figure:
    figure = Figure((chart.width / 72, chart.height / 72), dpi=72, layout="constrained")
    figure.set_facecolor(LIGHT["page"])
    axes = figure.add_subplot(facecolor="none")
    draw = _draw_stacked if chart.scale == "stacked" else _draw_lines
    draw(axes, chart, has_markers=stands_alone)
    _set_axes(axes, chart)
    if stands_alone:
        unit = f" ({chart.unit})" if chart.unit else ""
        axes.set_title(chart.title + unit, loc="left", fontweight="bold")
        if len(chart.series) > 1:
            figure.legend(loc="outside lower left", ncols=4, frameon=False, borderaxespad=0)
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.04)
    return figure


def _draw_lines(axes: Axes, chart: Chart, *, has_markers: bool) -> None:
    for series, colour in zip(chart.series, chart.colours(), strict=True):
        points = {i: y for i, _, y in series.points() if y > 0 or chart.scale != "log"}
        if series.high:
            x, outline = [*series.x, *series.x[::-1]], [*series.high, *series.low[::-1]]
            axes.fill(x, outline, color=LIGHT[colour], alpha=0.17, linewidth=0, clip_on=False)
        axes.plot(
            series.x,
            [points.get(i, nan) for i in range(len(series.x))],
            color=LIGHT[colour],
            label=series.name,
            linewidth=2 if len(points) <= 100 else 1.3,
            linestyle=(0, (3, 1.5)) if series.is_baseline else "solid",
            marker="o" if has_markers and len(points) <= _MAX_MARKERS else "none",
            markersize=5,
            clip_on=False,
        )


def _draw_stacked(axes: Axes, chart: Chart, *, has_markers: bool) -> None:
    x = list(chart.series[0].x)
    below = [0.0] * len(x)
    for series, colour in zip(chart.series, chart.colours(), strict=True):
        own = {i: y for i, _, y in series.points()}
        top = [low + own.get(i, 0.0) for i, low in enumerate(below)]
        outline = [*top, *below[::-1]]
        edges = x if len(x) > 1 else [x[0] - 0.3, x[0] + 0.3]  # one round is a bar
        outline = outline if len(x) > 1 else [top[0], top[0], below[0], below[0]]
        style = {"color": LIGHT[colour], "alpha": 0.7, "linewidth": 0, "clip_on": False}
        axes.fill([*edges, *edges[::-1]], outline, label=series.name, **style)
        below = top


def _set_axes(axes: Axes, chart: Chart) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, left=False, bottom=False, pad=6)
    axes.grid(axis="y", color=LIGHT["rule"], linewidth=1, clip_on=False)
    axes.set_axisbelow(True)
    axes.set_xlabel(chart.x_label)
    axes.margins(x=0.02, y=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    first, last = axes.dataLim.intervalx
    if first == last:
        axes.set_xlim(first - 0.5, last + 0.5)
    if chart.is_log2:
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({x for series in chart.series for x in series.x}))
        axes.minorticks_off()
    if chart.scale == "log":
        _set_log(axes, [y for series in chart.series for _, _, y in series.points() if y > 0])
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        low, high = axes.dataLim.intervaly
        if chart.scale != "free" and low >= 0:
            axes.set_ylim(0, 1.06 * high or 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _set_log(axes: Axes, values: list[float]) -> None:
    """Whole decades, so that at least two are labelled."""
    if values:
        axes.set_yscale("log")
        low, high = floor(log10(min(values))), ceil(log10(max(values)))
        axes.set_ylim(10.0**low, 10.0 ** max(high, low + 1))
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
        axes.minorticks_off()


def _tooltips(chart: Chart, figure: Figure) -> str:
    """A dot with its numbers at every point; of a long line, at evenly spaced ones."""
    if chart.scale == "stacked":
        return ""
    to_pixels, circles = figure.axes[0].transData.transform, []
    for series, colour in zip(chart.series, chart.colours(), strict=True):
        points = series.points()
        opacity = 1 if len(points) <= _MAX_MARKERS else 0  # a line that is all dots is unreadable
        for i, x, y in points[:: ceil(len(points) / _MAX_TOOLTIPS)]:
            if y <= 0 and chart.scale == "log":
                continue
            between = f" [{number(series.low[i])}, {number(series.high[i])}]" if series.high else ""
            left, up = to_pixels((x, y))
            circles.append(
                f'<circle cx="{left:.1f}" cy="{chart.height - up:.1f}" r="3" '
                f'fill="var(--{colour})" fill-opacity="{opacity}"><title>'
                f"{escape(series.name)} at {number(x)}: {number(y)}{between}</title></circle>"
            )
    return "".join(circles)


def _described(series: Sequence[Series]) -> str:
    """First and last value of every line, in words."""
    ends = [(s.name, s.points()[0], s.points()[-1]) for s in series if s.points()]
    return "; ".join(
        f"{name} from {number(first[2])} at {number(first[1])} "
        f"to {number(last[2])} at {number(last[1])}"
        for name, first, last in ends
    )
