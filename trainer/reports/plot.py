"""Draws line and bar plots as inline SVG, in the colours of trainer.reports.html."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.reports.html import Html, element, joined, paragraph

Scale = Literal["linear", "log"]

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 46
CATEGORIES = tuple(f"var(--c{n})" for n in range(1, 7))  # for series without an order
RAMP = tuple(f"var(--r{n})" for n in range(1, 7))  # for series that are steps of one setting


@dataclass(frozen=True)
class Series:
    """One line. Points whose y is None or not finite are gaps. `low` and `high` bound a shaded band."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False
    points: bool = False  # a dot on every point
    strong: bool = False  # drawn thicker than the others


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


def line_plot(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    remark: str = "",
    markers: Sequence[Marker] = (),
    ramp: bool = False,
) -> Html:
    """A figure with axes, grid, legend and markers. `ramp`: the series are steps of one setting, coloured in order, but
    for the strong ones."""
    across = _Scaled.over(x, [v for s in series for v in s.x] + [m.x for m in markers], LEFT, WIDTH - RIGHT)
    down = _Scaled.over(y, [v for s in series for v in _heights(s)], HEIGHT - BOTTOM, TOP)
    colours = [CATEGORIES[i % len(CATEGORIES)] for i in range(len(series))]
    if ramp:
        steps = zip(series, _ramp(len(series)), strict=True)
        colours = [CATEGORIES[1] if s.strong else colour for s, colour in steps]
    drawn = [
        _axes(across, down, x.label, y.label),
        *(_marker(marker, across, row) for row, marker in enumerate(markers)),
        *(_band(s, colour, across, down) for s, colour in zip(series, colours, strict=True)),
        *(_line(s, colour, across, down) for s, colour in zip(series, colours, strict=True)),
    ]
    legend = _legend(series, colours) if len(series) > 1 else ""
    return _figure(title, remark, _svg(title, HEIGHT, drawn), legend)


def bar_plot(title: str, bars: Sequence[Bar], *, unit: str = "", remark: str = "") -> Html:
    """Horizontal bars from zero, one below the other, with their values."""
    row, left = 26, 8 + 7 * max((len(bar.label) for bar in bars), default=0)
    left = min(left, WIDTH // 2)
    most = max((bar.value for bar in bars), default=0.0) or 1.0
    drawn = []
    for index, bar in enumerate(bars):
        top, length = 6 + index * row, (WIDTH - left - 90) * max(0.0, bar.value) / most
        colour = "var(--c1)" if bar.strong else "var(--r2)"
        drawn += [
            element("text", bar.label, x=left - 8, y=top + 14, text_anchor="end"),
            _shape("rect", x=left, y=top, width=f"{max(1.0, length):.1f}", height=row - 8, rx=3, fill=colour),
            element("text", bar.shown or f"{bar.value:g} {unit}".strip(), x=f"{left + length + 6:.1f}", y=top + 14),
        ]
    return _figure(title, remark, _svg(title, 12 + row * len(bars), drawn), "")


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


def _ramp(count: int) -> list[str]:
    """`count` colours from light to strong, spread over the ramp; the last ones repeat when there are too many."""
    if count == 1:
        return [RAMP[3]]
    return [RAMP[min(len(RAMP) - 1, round(i * (len(RAMP) - 1) / (count - 1)))] for i in range(count)]


def _heights(series: Series) -> list[float]:
    drawn = [v for v in series.y if v is not None]
    return [*drawn, *(series.low or ()), *(series.high or ())]


def _axes(across: _Scaled, down: _Scaled, x_label: str, y_label: str) -> Html:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
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
    parts.append(element("text", x_label, x=(LEFT + right) / 2, y=HEIGHT - 8, text_anchor="middle"))
    middle = (TOP + bottom) / 2
    parts.append(
        element("text", y_label, x=13, y=middle, text_anchor="middle", transform=f"rotate(-90 13 {middle:.1f})")
    )
    return joined(parts)


def _marker(marker: Marker, across: _Scaled, row: int) -> Html:
    """`row`: labels stand below each other, for markers can be close together."""
    x = across.at(marker.x)
    right = x > (LEFT + WIDTH) / 2
    return joined(
        [
            _shape("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=TOP, y2=HEIGHT - BOTTOM, class_="marker"),
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
            runs[-1].append((x, y))
    return [run for run in runs if run]


def _line(series: Series, colour: str, across: _Scaled, down: _Scaled) -> Html:
    parts: list[Html] = []
    for run in _runs(series):
        places = [(across.at(x), down.at(y)) for x, y in run]
        if len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            width, dash = 3 if series.strong else 1.8, "6 4" if series.dashed else None
            parts.append(
                _shape(
                    "polyline", points=path, fill="none", stroke=colour, stroke_width=width,
                    stroke_dasharray=dash, stroke_linejoin="round",
                )
            )  # fmt: skip
        if series.points or len(places) == 1:
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


def _legend(series: Sequence[Series], colours: Sequence[str]) -> Html:
    return element(
        "div",
        *(
            element("span", element("i", style=f"background:{colour}"), s.label)
            for s, colour in zip(series, colours, strict=True)
        ),
        class_="legend",
    )


def _shape(tag: str, **attributes: object) -> Html:
    return element(tag, **attributes)


def _svg(title: str, height: float, drawn: Sequence[Html]) -> Html:
    view = f"0 0 {WIDTH} {height:g}"
    opening = f'<svg viewBox="{view}" role="img" xmlns="http://www.w3.org/2000/svg">'
    return Html(f"{opening}{element('title', title)}{joined(drawn)}</svg>")


def _figure(title: str, remark: str, svg: Html, legend: object) -> Html:
    return element("figure", element("figcaption", title), paragraph(remark, quiet=True) if remark else "", svg, legend)
