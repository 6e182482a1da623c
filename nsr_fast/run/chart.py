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
from itertools import cycle
from math import isfinite
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from nsr_fast.run.report_style import LIGHT

_LINES = ("blue", "orange", "green", "purple", "amber")
_MAX_DOTS, _MAX_TOOLTIPS = 25, 250
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "nsr_fast", "font.family": "DejaVu Sans"}
_STYLE |= {"font.size": 11, "axes.labelsize": 11, "axes.titlesize": 12, "axes.linewidth": 1}
_STYLE |= {"text.color": LIGHT["ink"], "legend.labelcolor": LIGHT["soft"]}
_STYLE |= dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color"), LIGHT["soft"])
_STYLE |= {"ytick.color": LIGHT["soft"], "legend.frameon": False, "legend.borderaxespad": 0}


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

    def points(self) -> list[tuple[float, float]]:
        """(x, y) of the finite points."""
        return [
            (x, y) for x, y in zip(self.x, self.y, strict=True) if y is not None and isfinite(y)
        ]


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
    height: int = 200

    def svg(self) -> str:
        """An <svg> element for a page whose style sheet is report_style.CSS."""
        with rc_context(_STYLE):
            figure, text = _drawn(self), StringIO()
            no_date = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(text, format="svg", transparent=True, metadata=no_date)
        body = text.getvalue()[text.getvalue().index("</defs>") + 7 : -len("</svg>\n")]
        body = re.sub(r'\s*\n\s*| id="[^"]*"', " ", body) + _tooltips(self, figure.axes[0])
        for name, colour in LIGHT.items():
            body = body.replace(colour, f"var(--{name})")
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title)}: {escape(_described(self.series))}">'
            + body.replace(" font-family: 'DejaVu Sans';", "")
            + "</svg>"
        )

    def save_png(self, path: Path) -> None:
        """The chart with its title and dots, at twice its size."""
        with rc_context(_STYLE):
            figure = _drawn(self)
            for line in figure.axes[0].lines:
                is_short = np.isfinite(line.get_ydata()).sum() <= _MAX_DOTS
                line.set(marker="o" if is_short else "", markersize=5)
            unit = f" ({self.unit})" if self.unit else ""
            figure.axes[0].set_title(self.title + unit, loc="left", fontweight="bold")
            figure.subplots_adjust(top=1 - 28 / self.height)
            figure.savefig(path, dpi=144, metadata={"Software": None})


def number(value: float) -> str:
    """At most four significant digits."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"


def _drawn(chart: Chart) -> Figure:
    width, height = chart.width, chart.height
    figure = Figure((width / 72, height / 72), dpi=72, facecolor=LIGHT["page"])
    axes, colours, top = figure.add_subplot(facecolor="none"), cycle(_LINES), 0.0
    for series in chart.series:
        style = {"color": LIGHT["grey" if series.is_baseline else next(colours)], "clip_on": False}
        x, y = np.array(series.x, float), np.array(series.y, float)  # None becomes NaN, a gap
        y[~np.isfinite(y) | ((y <= 0) & (chart.scale == "log"))] = np.nan
        if chart.scale == "stacked":
            if len(x) == 1:  # one round is a bar
                x, y = np.add(x, [-0.3, 0.3]), y.repeat(2)
            low, top = top + np.zeros(len(x)), top + np.nan_to_num(y)
            _band(axes, x, low, top, alpha=0.7, label=series.name, **style)
            continue
        if series.high:
            _band(axes, x, series.low, series.high, alpha=0.17, **style)
        style |= {"linestyle": (0, (3, 1.5))} if series.is_baseline else {}
        axes.plot(x, y, label=series.name, linewidth=2 if len(x) <= 100 else 1.3, **style)
    _set_axes(axes, chart)
    bottom = 40
    if len(chart.series) > 1 or chart.is_log2:
        bottom = 60
        figure.legend(loc="lower left", ncols=4, bbox_to_anchor=(0, 0))
    edges = {"left": 54 / width, "right": 1 - 10 / width}  # fixed: plots align from card to card
    figure.subplots_adjust(**edges, bottom=bottom / height, top=1 - 8 / height)
    return figure


def _band(axes: Axes, x: Sequence, low: Sequence, high: Sequence, **style: object) -> None:
    axes.fill([*x, *x[::-1]], [*high, *low[::-1]], linewidth=0, **style)


def _set_axes(axes: Axes, chart: Chart) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(which="both", length=0, left=False, bottom=False, pad=6)
    axes.grid(axis="y", color=LIGHT["rule"], linewidth=1, clip_on=False)
    axes.set_axisbelow(True)
    axes.set_xlabel(chart.x_label)
    axes.margins(x=0.02, y=0.06)
    (first, last), (low, high) = axes.dataLim.intervalx, axes.dataLim.intervaly
    if first == last:
        axes.set_xlim(first - 0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    if chart.is_log2:
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({x for series in chart.series for x in series.x}), minor=False)
    if chart.scale == "log" and high > 0:  # whole decades, at least one
        axes.set_yscale("log")
        low, high = np.floor(np.log10(low)), np.ceil(np.log10(high))
        axes.set_ylim(10**low, 10 ** max(high, low + 1))
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        if chart.scale != "free" and low >= 0:
            axes.set_ylim(0, max(1.06 * high, 0) or 1)
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _tooltips(chart: Chart, axes: Axes) -> str:
    """A dot with its numbers at every point; unseen, and at some points only, on a long line."""
    circles = []
    for series, line in zip(chart.series, axes.lines):  # no lines when stacked
        pixels = axes.transData.transform(line.get_xydata())
        indices = np.flatnonzero(np.isfinite(line.get_ydata()))
        opacity = int(len(indices) <= _MAX_DOTS)
        for i in indices[:: 1 + len(indices) // _MAX_TOOLTIPS]:
            tip = f"{series.name} at {number(series.x[i])}: {number(series.y[i])}"
            if series.high:
                tip += f" [{number(series.low[i])}, {number(series.high[i])}]"
            circles.append(
                f'<circle cx="{pixels[i][0]:.1f}" cy="{chart.height - pixels[i][1]:.1f}" r="3" '
                f'fill="{line.get_color()}" fill-opacity="{opacity}">'
                f"<title>{escape(tip)}</title></circle>"
            )
    return "".join(circles)


def _described(series: Sequence[Series]) -> str:
    """First and last value of every line, in words."""
    ends = [(s.name, *s.points()[0], *s.points()[-1]) for s in series if s.points()]
    return "; ".join(
        f"{name} from {number(y0)} at {number(x0)} to {number(y1)} at {number(x1)}"
        for name, x0, y0, x1, y1 in ends
    )
