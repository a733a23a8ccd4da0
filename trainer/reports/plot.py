"""Draws line and bar plots as inline SVG, for report pages and for the user interface.

The style sheets of both hold the colours --c1 to --c6 and --r1 to --r6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.reports.html import Html, element, escaped, joined, paragraph

Scale = Literal["linear", "log"]

Values = NDArray[np.float64]
LEFT, RIGHT, TOP, BOTTOM = 74, 16, 14, 46
LETTER = 6.6  # width of a letter at 11 pixels
TITLE = 11  # x of the upright title, left of the tick labels: 1.5e-07 is the longest
MOST_POINTS = 400  # of a line: about two per three pixels
CATEGORIES = tuple(f"var(--c{n})" for n in range(1, 7))  # for series without an order
RAMP = tuple(f"var(--r{n})" for n in range(1, 7))  # for series that are steps of one setting


class Size(NamedTuple):
    """Of a plot, in pixels; about the size on the screen, so that letters look alike."""

    width: int
    height: int


NORMAL, SMALL, WIDE = Size(560, 300), Size(430, 210), Size(880, 290)


@dataclass(frozen=True)
class Series:
    """One line, x rising. Points whose y is None or not finite are gaps. `low` and `high` bound a shaded band. Of more
    than MOST_POINTS those are drawn that look the same."""

    label: str
    x: Sequence[float] | Values
    y: Sequence[float | None] | Values
    low: Sequence[float] | Values | None = None
    high: Sequence[float] | Values | None = None
    dashed: bool = False
    points: bool = False  # a dot on every point
    strong: bool = False  # drawn thicker than the others
    faint: bool = False  # stands behind the others, without a name in the legend


@dataclass(frozen=True)
class Marker:
    """A vertical line at `x` with a label."""

    x: float
    label: str


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    shown: str = ""  # what stands at its end; the value when empty
    strong: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis: what it shows, its scale, and whether 0 must be on it. `low` and `high` replace the data's range."""

    label: str
    scale: Scale = "linear"
    zero: bool = False
    low: float | None = None
    high: float | None = None
    ticks: Sequence[float] | None = None


def colour(index: int) -> str:
    """Of the series at a place, where they have no order."""
    return CATEGORIES[index % len(CATEGORIES)]


def line_plot(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    remark: str = "",
    markers: Sequence[Marker] = (),
    ramp: bool = False,
    size: Size = NORMAL,
    empty: str = "Nothing to show yet.",
) -> Html:
    """A figure with axes, grid, legend and markers. `ramp`: the series are steps of one setting, coloured in order, but
    for the strong ones. `empty`: what stands there while no series has a point."""
    series = [_thin(s) for s in series]
    if not any(_runs(s) for s in series):
        return _figure(title, remark, paragraph(empty, quiet=True), "")
    across = _Scaled.over(x, [v for s in series for v in s.x] + [m.x for m in markers], LEFT, size.width - RIGHT)
    down = _Scaled.over(y, [v for s in series for v in _heights(s)], size.height - BOTTOM, TOP)
    coloured = list(zip(series, _colours(series, ramp=ramp), strict=True))
    drawn = [
        _axes(across, down, x.label, y.label, size),
        *(_marker(marker, across, row, size) for row, marker in enumerate(markers)),
        *(_band(s, c, across, down) for s, c in coloured),
        *(_line(s, c, across, down) for s, c in sorted(coloured, key=lambda pair: not pair[0].faint)),
    ]
    named = [(s, c) for s, c in coloured if not s.faint]
    return _figure(title, remark, _svg(title, size, drawn, _said(series)), _legend(named) if len(named) > 1 else "")


def bar_plot(
    title: str, bars: Sequence[Bar], *, unit: str = "", remark: str = "", empty: str = "Nothing to show yet."
) -> Html:
    """Horizontal bars from zero, one below the other, with their values."""
    if not bars:
        return _figure(title, remark, paragraph(empty, quiet=True), "")
    row, left, width = 26, 8 + 7 * max(len(bar.label) for bar in bars), NORMAL.width
    left = min(left, width // 2)
    most = max(bar.value for bar in bars) or 1.0
    drawn = []
    for index, bar in enumerate(bars):
        top, length = 6 + index * row, (width - left - 90) * max(0.0, bar.value) / most
        colour = "var(--c1)" if bar.strong else "var(--r2)"
        drawn += [
            element("text", bar.label, x=left - 8, y=top + 14, text_anchor="end"),
            _shape("rect", x=left, y=top, width=f"{max(1.0, length):.1f}", height=row - 8, rx=3, fill=colour),
            element("text", bar.shown or f"{bar.value:g} {unit}".strip(), x=f"{left + length + 6:.1f}", y=top + 14),
        ]
    return _figure(title, remark, _svg(title, Size(width, 12 + row * len(bars)), drawn), "")


@dataclass(frozen=True)
class _Scaled:
    """Maps values to pixels along one axis."""

    scale: Scale
    low: float
    high: float
    first: float  # the pixel of `low`
    last: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        low, high, value = (math.log(v) for v in (self.low, self.high, value)) if self.scale == "log" else (
            self.low, self.high, value,
        )  # fmt: skip
        return self.first + (self.last - self.first) * (value - low) / (high - low)

    @classmethod
    def over(cls, axis: Axis, values: Sequence[float], first: float, last: float) -> _Scaled:
        shown = [v for v in values if math.isfinite(v) and (axis.scale == "linear" or v > 0)] or [1.0]
        shown += [0.0] if axis.zero else []
        low = min(shown) if axis.low is None else axis.low
        high = max(shown) if axis.high is None else axis.high
        if axis.scale == "log":
            if low == high:
                low, high = low / 2, high * 2
            ticks = tuple(axis.ticks) if axis.ticks is not None else _powers(low, high)
            return cls("log", low, high, first, last, ticks)
        if low == high:
            low, high = low - abs(low or 1) / 2, high + abs(high or 1) / 2
        step = _step(high - low)
        if axis.low is None:
            low = math.floor(low / step + 1e-9) * step
        if axis.high is None:
            high = math.ceil(high / step - 1e-9) * step
        ticks = tuple(axis.ticks) if axis.ticks is not None else _multiples(low, high, step)
        return cls("linear", low, high, first, last, ticks)


def _step(span: float) -> float:
    """A round distance that gives about five ticks."""
    rough = span / 5
    size = 10.0 ** math.floor(math.log10(rough))
    return next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough * 0.999)


def _multiples(low: float, high: float, step: float) -> tuple[float, ...]:
    first = math.ceil(low / step - 1e-9)
    return tuple(n * step for n in range(first, math.floor(high / step + 1e-9) + 1))


def _powers(low: float, high: float) -> tuple[float, ...]:
    """Powers of two where they are few, else of ten."""
    for base in (2, 10):
        first, last = (round(math.log(v, base), 6) for v in (low, high))
        exponents = range(math.ceil(first), math.floor(last) + 1)
        if len(exponents) <= 12:
            break
    return tuple(float(base) ** e for e in exponents)


def shown(value: float) -> str:
    """As short as a tick label should be: 1500, 0.25, 1e-07."""
    return f"{round(value):d}" if abs(value) >= 1000 and value == round(value) and abs(value) < 1e7 else f"{value:.4g}"


def thinned(x: Values, y: Values, most: int = MOST_POINTS) -> tuple[Values, Values]:
    """At most about `most` points that look the same: the lowest and the highest of each slice of the line."""
    finite = np.isfinite(y) & np.isfinite(x)
    x, y = x[finite], y[finite]
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), most // 2 + 1).astype(int)
    kept: set[int] = {0, len(x) - 1}
    for begin, end in pairwise(edges.tolist()):
        if end > begin:
            kept |= {begin + int(y[begin:end].argmin()), begin + int(y[begin:end].argmax())}
    order = np.array(sorted(kept))
    return x[order], y[order]


def _thin(series: Series) -> Series:
    if len(series.x) <= MOST_POINTS or series.low is not None:
        return series
    x, y = thinned(np.array(series.x, float), np.array(series.y, float))
    return replace(series, x=x, y=y)


def _colours(series: Sequence[Series], *, ramp: bool) -> list[str]:
    """Faint ones are grey; the others take the colours in turn."""
    clear = [s for s in series if not s.faint]
    steps = _ramp(len(clear)) if ramp else [colour(i) for i in range(len(clear))]
    given = iter([CATEGORIES[1] if ramp and s.strong else step for s, step in zip(clear, steps, strict=True)])
    return ["currentColor" if s.faint else next(given) for s in series]


def _said(series: Sequence[Series]) -> str:
    """The plot for those who cannot see it: where each line ends."""
    ends = [(s.label, runs[-1][-1][1]) for s in series if not s.faint and (runs := _runs(s))]
    return "; ".join(f"{label or 'it'} ends at {shown(value)}" for label, value in ends)


def _ramp(count: int) -> list[str]:
    """`count` colours from light to strong, spread over the ramp; the last ones repeat when there are too many."""
    if count < 2:
        return [RAMP[3]] * count
    return [RAMP[min(len(RAMP) - 1, round(i * (len(RAMP) - 1) / (count - 1)))] for i in range(count)]


def _heights(series: Series) -> list[float]:
    """What the axis must reach; of a faint line all but the rarest peaks, which would flatten everything else."""
    drawn = [v for v in series.y if v is not None and math.isfinite(v)]
    if series.faint and drawn:
        return [float(v) for v in np.percentile(drawn, [1, 99])]
    return [*drawn, *(series.low or ()), *(series.high or ())]


def _axes(across: _Scaled, down: _Scaled, x_label: str, y_label: str, size: Size) -> Html:
    bottom, right = size.height - BOTTOM, size.width - RIGHT
    parts: list[Html] = []
    for value in down.ticks:
        y = down.at(value)
        parts.append(_shape("line", x1=LEFT, x2=right, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid-line"))
        parts.append(element("text", shown(value), x=LEFT - 7, y=f"{y + 4:.1f}", text_anchor="end"))
    for value in across.ticks:
        x = across.at(value)
        parts.append(_shape("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(element("text", shown(value), x=f"{x:.1f}", y=bottom + 18, text_anchor="middle"))
    parts.append(_shape("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    parts.append(element("text", x_label, x=(LEFT + right) / 2, y=size.height - 8, text_anchor="middle"))
    if y_label:
        middle = (TOP + bottom) / 2
        turned = f"rotate(-90 {TITLE} {middle:.1f})"
        parts.append(element("text", y_label, x=TITLE, y=middle, text_anchor="middle", transform=turned))
    return joined(parts)


def _marker(marker: Marker, across: _Scaled, row: int, size: Size) -> Html:
    """`row`: labels stand below each other, for markers can be close together."""
    x = across.at(marker.x)
    right = x > (LEFT + size.width) / 2
    return joined(
        [
            _shape("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=TOP, y2=size.height - BOTTOM, class_="marker"),
            element(
                "text", marker.label, x=f"{x + (-6 if right else 6):.1f}", y=TOP + 10 + 14 * row,
                text_anchor="end" if right else "start", class_="marker-text",
            ),
        ]
    )  # fmt: skip


def _runs(series: Series) -> list[list[tuple[float, float]]]:
    """The points between the gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(series.x, series.y, strict=True):
        if y is None or not math.isfinite(y):
            runs.append([])
        else:
            runs[-1].append((float(x), float(y)))
    return [run for run in runs if run]


def _line(series: Series, colour: str, across: _Scaled, down: _Scaled) -> Html:
    parts: list[Html] = []
    for run in _runs(series):
        places = [(across.at(x), down.at(min(max(y, down.low), down.high))) for x, y in run]
        if len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            width, dash = 1 if series.faint else 3 if series.strong else 1.8, "6 4" if series.dashed else None
            parts.append(
                _shape(
                    "polyline", points=path, fill="none", stroke=colour, stroke_width=width,
                    stroke_dasharray=dash, stroke_linejoin="round", class_="faint" if series.faint else "clear",
                    opacity=0.3 if series.faint else None,
                )
            )  # fmt: skip
        if series.points or (len(places) == 1 and not series.faint):
            for (x, y), (value, height) in zip(places, run, strict=True):
                tip = element("title", f"{series.label}: {shown(value)}, {shown(height)}")
                parts.append(element("circle", tip, cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.2, fill=colour))
    return joined(parts)


def _band(series: Series, colour: str, across: _Scaled, down: _Scaled) -> Html:
    if series.low is None or series.high is None:
        return Html("")
    there = [(across.at(x), down.at(y)) for x, y in zip(series.x, series.high, strict=True)]
    back = [(across.at(x), down.at(y)) for x, y in zip(series.x, series.low, strict=True)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*there, *reversed(back)])
    return _shape("polygon", points=path, fill=colour, opacity=0.15)


def _legend(coloured: Sequence[tuple[Series, str]]) -> Html:
    return element(
        "div",
        *(element("span", element("i", style=f"background:{colour}"), s.label) for s, colour in coloured),
        class_="legend",
    )


def _shape(tag: str, **attributes: object) -> Html:
    return element(tag, **attributes)


def _svg(title: str, size: Size, drawn: Sequence[Html], said: str = "") -> Html:
    told = escaped(f"{title}: {said}" if said else title)
    opening = f'<svg viewBox="0 0 {size.width} {size.height}" role="img" aria-label="{told}"'
    return Html(f'{opening} xmlns="http://www.w3.org/2000/svg">{joined(drawn)}</svg>')


def _figure(title: str, remark: str, drawn: Html, legend: object) -> Html:
    told = paragraph(remark, quiet=True) if remark else ""
    return element("figure", element("figcaption", title), told, drawn, legend, class_="chart")
