"""Line charts as inline SVG text: axes, bands, stacked areas; no script, no external resource.

Colours and fonts come from CSS classes (s0 to s5 for series): one drawing serves light and dark.
A chart is an image with a description in words for screen readers; every point has a tooltip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from math import floor, isfinite, log2, log10

LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 38
_MAX_MARKERS = 25


@dataclass(frozen=True, slots=True)
class Series:
    """One line; low and high, when given, are drawn as a band around it."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps data to pixels."""

    width: int
    height: int
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    is_log2: bool

    def x(self, value: float) -> float:
        low, high = self.x_low, self.x_high
        if self.is_log2:
            value, low, high = log2(value), log2(low), log2(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return LEFT + share * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    is_log2: bool = False,
    is_stacked: bool = False,
    starts_at_zero: bool = False,
    width: int = 420,
    height: int = 230,
) -> str:
    """The series over one pair of axes as an <svg> element.

    is_log2         the x axis shows powers of two (k of Pass@k); all x > 0
    is_stacked      areas on top of each other; the series share their x
    starts_at_zero  the y axis includes 0
    """
    drawn = _stacked(series) if is_stacked else list(series)
    frame = _frame(drawn, is_log2, starts_at_zero or is_stacked, width, height)
    body = [_axes(frame, drawn, x_label)]
    shapes = [_band(frame, s, i, is_stacked) for i, s in enumerate(drawn)]
    body += shapes + [_line(frame, s, i) for i, s in enumerate(drawn)]
    if not is_stacked:
        body += [_markers(frame, s, i) for i, s in enumerate(drawn)]
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}: '
        f'{escape(_described(series))}">{"".join(body)}</svg>'
    )


def legend(series: Sequence[Series]) -> str:
    """The names of the series beside their colours."""
    items = "".join(
        f'<li><span class="key s{i % 6}"></span>{escape(s.name)}</li>' for i, s in enumerate(series)
    )
    return f'<ul class="legend">{items}</ul>'


def number(value: float) -> str:
    """At most four significant digits."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about `count` of them."""
    raw = (high - low) / count
    scale = 10.0 ** floor(log10(raw))
    step = scale * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * scale >= raw * 0.999)
    first = floor(low / step) + (1 if low > floor(low / step) * step + step * 1e-9 else 0)
    values = [round(i * step, 12) for i in range(first, floor(high / step + 1e-9) + 1)]
    return values or [low]


def _points(series: Series) -> list[tuple[int, float, float]]:
    """(index, x, y) of the finite points."""
    return [
        (i, x, y)
        for i, (x, y) in enumerate(zip(series.x, series.y, strict=True))
        if y is not None and isfinite(y)
    ]


def _frame(
    series: list[Series], is_log2: bool, starts_at_zero: bool, width: int, height: int
) -> _Frame:
    points = [point for s in series for point in _points(s)]
    xs, ys = [x for _, x, _ in points], [y for _, _, y in points]
    ys += [v for s in series for v in (*s.low, *s.high)]
    low, high = min(ys), max(ys)
    if starts_at_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low = low if starts_at_zero and low == 0 else low - margin
    return _Frame(width, height, min(xs), max(xs), low, high + margin, is_log2)


def _stacked(series: Sequence[Series]) -> list[Series]:
    """Cumulative sums, each with the one below as the low edge of its band."""
    below = [0.0] * len(series[0].x)
    stacked = []
    for s in series:
        top = [b + (y if y is not None and isfinite(y) else 0.0) for b, y in zip(below, s.y)]
        stacked.append(Series(s.name, s.x, top, low=below, high=top))
        below = top
    return stacked


def _axes(frame: _Frame, series: list[Series], x_label: str) -> str:
    right, bottom = frame.width - RIGHT, frame.height - BOTTOM
    parts = []
    for value in ticks(frame.y_low, frame.y_high):
        y = frame.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">')
        parts.append(f"{number(value)}</text>")
    for value in _x_ticks(frame, series):
        x = frame.x(value)
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom}v4"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">')
        parts.append(f"{number(value)}</text>")
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
    middle = (LEFT + right) / 2
    parts.append(f'<text class="label" x="{middle}" y="{frame.height - 5}" text-anchor="middle">')
    return "".join(parts) + f"{escape(x_label)}</text>"


def _x_ticks(frame: _Frame, series: list[Series]) -> list[float]:
    if frame.is_log2:
        return sorted({x for s in series for x in s.x})
    if frame.x_high == frame.x_low:
        return [frame.x_low]
    return [value for value in ticks(frame.x_low, frame.x_high) if value == int(value)]


def _runs(series: Series) -> list[list[tuple[int, float, float]]]:
    """Finite points cut where one is missing."""
    points = list(enumerate(_points(series)))
    groups = groupby(points, key=lambda item: item[0] - item[1][0])
    return [[point for _, point in group] for _, group in groups]


def _line(frame: _Frame, series: Series, index: int) -> str:
    paths = []
    for run in _runs(series):
        steps = "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for _, x, y in run)
        paths.append(f'<path class="line s{index % 6}" d="M{steps}"/>')
    return "".join(paths)


def _band(frame: _Frame, series: Series, index: int, is_stacked: bool) -> str:
    if not series.high:
        return ""
    upper = [f"{frame.x(x):.1f} {frame.y(v):.1f}" for x, v in zip(series.x, series.high)]
    lower = [f"{frame.x(x):.1f} {frame.y(v):.1f}" for x, v in zip(series.x, series.low)]
    kind = "area" if is_stacked else "band"
    return f'<path class="{kind} s{index % 6}" d="M{"L".join(upper + lower[::-1])}Z"/>'


def _markers(frame: _Frame, series: Series, index: int) -> str:
    points = _points(series)
    radius = 3 if len(points) <= _MAX_MARKERS else 1.2
    circles = []
    for i, x, y in points:
        interval = f" [{number(series.low[i])}, {number(series.high[i])}]" if series.high else ""
        tip = f"{series.name} at {number(x)}: {number(y)}{interval}"
        circles.append(
            f'<circle class="dot s{index % 6}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" '
            f'r="{radius}"><title>{escape(tip)}</title></circle>'
        )
    return "".join(circles)


def _described(series: Sequence[Series]) -> str:
    """First and last value of every line, in words."""
    texts = []
    for s in series:
        points = _points(s)
        if points:
            (_, x0, y0), (_, x1, y1) = points[0], points[-1]
            texts.append(
                f"{s.name} from {number(y0)} at {number(x0)} to {number(y1)} at {number(x1)}"
            )
    return "; ".join(texts)
