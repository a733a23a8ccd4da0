"""Line charts as SVG text: small, sharp, without a library, in the colours of the page's theme."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
SMALL, WIDE = (430, 200), (880, 280)  # width and height; about the size on the screen, so that letters look alike
MOST_POINTS = 400  # about two per three pixels
MOST_SMOOTHED = 4000
COLOURS = ("#0d9488", "#d97706", "#7c3aed", "#db2777", "#2563eb", "#65a30d", "#dc2626", "#0891b2")


@dataclass(frozen=True)
class Line:
    """x rising; `band`: (low, high) around it; faint lines stand behind the others and have no name in the legend."""

    name: str
    x: Values
    y: Values
    colour: str
    faint: bool = False
    dots: bool = False
    band: tuple[Values, Values] | None = field(default=None)


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def smoothed(values: Values, span: int | None = None) -> Values:
    """Exponential moving average without the pull to zero at its beginning; gaps (NaN) are passed over.

    span: number of points that count most, a thirtieth of them by default.
    """
    weight = 1 - 2 / (max(2, span or len(values) // 30) + 1)
    result, mean, total = np.empty_like(values), 0.0, 0.0
    for i, value in enumerate(values.tolist()):
        if math.isfinite(value):
            mean = weight * mean + (1 - weight) * value
            total = weight * total + (1 - weight)
        result[i] = mean / total if total else math.nan
    return result


def smooth_line(x: Values, y: Values) -> tuple[Values, Values]:
    """The moving average of a line; neighbours of a very long one are averaged first, which the eye can't tell."""
    group = math.ceil(len(y) / MOST_SMOOTHED)
    if group > 1:
        starts = np.arange(0, len(y), group)
        finite = np.isfinite(y)
        counts = np.add.reduceat(finite.astype(float), starts)
        sums = np.add.reduceat(np.where(finite, y, 0.0), starts)
        y = np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0)
        x = x[np.minimum(starts + group, len(x)) - 1]  # an average belongs to the last step that is in it
    return x, smoothed(y)


def thinned(x: Values, y: Values, most: int = MOST_POINTS) -> tuple[Values, Values]:
    """At most about `most` points that look the same: the lowest and the highest of each slice of the line."""
    finite = np.isfinite(y) & np.isfinite(x)
    x, y = x[finite], y[finite]
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), most // 2 + 1).astype(int)
    kept: set[int] = {0, len(x) - 1}
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if end > begin:
            kept |= {begin + int(y[begin:end].argmin()), begin + int(y[begin:end].argmax())}
    order = np.array(sorted(kept))
    return x[order], y[order]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two bounds."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / count))
    step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if (high - low) / s <= count)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def label(value: float) -> str:
    """A tick's text: 12000 -> 12k, 0.0001 -> 1e-4."""
    if value == 0:
        return "0"
    if abs(value) >= 10000 and value % 1000 == 0:
        return f"{value / 1000:g}k"
    if abs(value) < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class _Frame:
    """From data to pixels."""

    x: tuple[float, float]
    y: tuple[float, float]
    log_x: bool = False
    size: tuple[int, int] = SMALL

    @property
    def right(self) -> int:
        return self.size[0] - RIGHT

    @property
    def bottom(self) -> int:
        return self.size[1] - BOTTOM

    def at(self, x: Values, y: Values) -> tuple[Values, Values]:
        left, right = (math.log(v) if self.log_x else v for v in self.x)
        shown = np.log(x) if self.log_x else x
        across = (shown - left) / ((right - left) or 1) * (self.right - LEFT) + LEFT
        up = self.bottom - (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1) * (self.bottom - TOP)
        return across, up


def _points(frame: _Frame, x: Values, y: Values) -> str:
    across, up = frame.at(x, np.clip(y, *frame.y))
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True))


def chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str = "step",
    log_x: bool = False,
    from_zero: bool = False,
    marker: tuple[float, str] | None = None,
    size: tuple[int, int] = SMALL,
    empty: str = "Nothing to show yet.",
) -> str:
    """A figure with title, legend and lines. marker: a vertical line at x, with its text."""
    told = html.escape(title)
    thin = [(line, *thinned(line.x, line.y)) for line in lines]
    thin = [(line, x, y) for line, x, y in thin if len(x)]
    if not thin:
        return (
            f"<figure class='chart'><figcaption>{told}</figcaption><p class='quiet'>{html.escape(empty)}</p></figure>"
        )
    frame = _Frame(_x_range(thin, log_x), _y_range(thin, from_zero), log_x, size)
    parts = [_grid(frame, x_label)]
    for line, x, y in sorted(thin, key=lambda item: not item[0].faint):
        parts.append(_line(frame, line, x, y))
    if marker is not None and frame.x[0] <= marker[0] <= frame.x[1]:
        parts.append(_marker(frame, *marker))
    named = [line for line, _, _ in thin if not line.faint and line.name]
    legend = "".join(f"<span><i style='background:{n.colour}'></i>{html.escape(n.name)}</span>" for n in named)
    key = f"<span class='legend'>{legend}</span>" if len(named) > 1 else ""
    aria = html.escape(f"{title}: " + "; ".join(f"{line.name} now {y[-1]:.4g}" for line, _, y in thin if line.name))
    return (
        f"<figure class='chart'><figcaption>{told}{key}</figcaption>"
        f"<svg viewBox='0 0 {size[0]} {size[1]}' role='img' aria-label='{aria}'>{''.join(parts)}</svg></figure>"
    )


def _x_range(thin: Sequence[tuple[Line, Values, Values]], log_x: bool) -> tuple[float, float]:
    low, high = min(float(x.min()) for _, x, _ in thin), max(float(x.max()) for _, x, _ in thin)
    return (low, high) if high > low else (low, low * 2 if log_x else low + 1)


def _y_range(thin: Sequence[tuple[Line, Values, Values]], from_zero: bool) -> tuple[float, float]:
    """All of the clear lines; of the faint ones all but the rarest peaks, which would flatten everything else."""
    clear = [y for line, _, y in thin if not line.faint] + [b for line, _, _ in thin if line.band for b in line.band]
    faint = [np.percentile(y, [1, 99]) for line, _, y in thin if line.faint]
    every = np.concatenate([*clear, *faint])
    every = every[np.isfinite(every)]
    low, high = float(every.min()), float(every.max())
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (0.0 if from_zero and low >= 0 else low - room, high + room)


def _grid(frame: _Frame, x_label: str) -> str:
    parts = []
    for value in ticks(*frame.y):
        _, up = frame.at(np.array([frame.x[0]]), np.array([value]))
        parts.append(f"<path class='grid' d='M{LEFT} {up[0]:.1f}H{frame.right}'/>")
        parts.append(f"<text x='{LEFT - 6}' y='{up[0] + 3.5:.1f}' text-anchor='end'>{label(value)}</text>")
    for value in _x_ticks(frame):
        across, _ = frame.at(np.array([value]), np.array([0.0]))
        parts.append(f"<text x='{across[0]:.1f}' y='{frame.bottom + 15}' text-anchor='middle'>{label(value)}</text>")
    parts.append(
        f"<text x='{frame.right}' y='{frame.size[1] - 4}' text-anchor='end' class='axis'>{html.escape(x_label)}</text>"
    )
    return "".join(parts)


def _x_ticks(frame: _Frame) -> list[float]:
    if not frame.log_x:
        return ticks(*frame.x, count=7)
    found = [2.0**n for n in range(-20, 40) if frame.x[0] <= 2.0**n <= frame.x[1]]
    return found[:: max(1, math.ceil(len(found) / 8))]


def _line(frame: _Frame, line: Line, x: Values, y: Values) -> str:
    parts = []
    if line.band is not None:
        low, high = line.band
        ring = np.concatenate([line.x, line.x[::-1]]), np.concatenate([high, low[::-1]])
        parts.append(f"<polygon class='band' fill='{line.colour}' points='{_points(frame, *ring)}'/>")
    kind = "faint" if line.faint else "clear"
    parts.append(f"<polyline class='{kind}' stroke='{line.colour}' points='{_points(frame, x, y)}'/>")
    if line.dots or len(x) == 1:
        across, up = frame.at(x, np.clip(y, *frame.y))
        parts += [
            f"<circle cx='{a:.1f}' cy='{b:.1f}' r='3' fill='{line.colour}'/>" for a, b in zip(across, up, strict=True)
        ]
    return "".join(parts)


def _marker(frame: _Frame, x: float, text: str) -> str:
    across, _ = frame.at(np.array([x]), np.array([0.0]))
    at, anchor = float(across[0]), "start" if across[0] < frame.size[0] / 2 else "end"
    shift = 6 if anchor == "start" else -6
    return (
        f"<path class='marker' d='M{at:.1f} {TOP}V{frame.bottom}'/>"
        f"<text class='marker-text' x='{at + shift:.1f}' y='{TOP + 12}' text-anchor='{anchor}'>"
        f"{html.escape(text)}</text>"
    )


def _empty(title: str, text: str) -> str:
    return f"<figure class='chart'><figcaption>{title}</figcaption><p class='quiet'>{html.escape(text)}</p></figure>"


def bars(counts: Sequence[tuple[str, float]], *, title: str, empty: str = "Nothing to show yet.") -> str:
    """A histogram with one horizontal bar for each (name, count)."""
    told = html.escape(title)
    if not counts:
        return (
            f"<figure class='chart'><figcaption>{told}</figcaption><p class='quiet'>{html.escape(empty)}</p></figure>"
        )
    most = max(count for _, count in counts) or 1
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td><i style='width:{count / most:.1%}'></i></td><td>{count:g}</td></tr>"
        for name, count in counts
    )
    return f"<figure class='chart'><figcaption>{told}</figcaption><table class='bars'>{rows}</table></figure>"
