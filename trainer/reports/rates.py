"""Shows how the learning rates will move over a run: one line for the terminal, a plot as schedule.html."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

from trainer.files.atomic import write_text
from trainer.reports.html import page, section
from trainer.reports.plot import Axis, Series, line_plot

BLOCKS = "▁▂▃▄▅▆▇█"
COLUMNS = 40  # of the line
POINTS = 400  # of the plot

Rate = Callable[[int], float]  # the learning rate of the step after so many finished ones


def sparkline(rate: Rate, steps: int, columns: int = COLUMNS) -> str:
    """The rate over the run in characters of eight heights, the lowest for 0; each shows the mean of its steps."""
    edges = [round(i * steps / min(columns, steps)) for i in range(min(columns, steps) + 1)]
    means = [math.fsum(rate(s) for s in range(a, b)) / (b - a) for a, b in pairwise(edges)]
    most = max(rate(s) for s in range(steps)) or 1.0
    return "".join(BLOCKS[min(len(BLOCKS) - 1, round(mean / most * (len(BLOCKS) - 1)))] for mean in means)


def line(what: str, rate: Rate, steps: int) -> str:
    """What moves, its picture, and its first, largest and last values."""
    values = [rate(s) for s in range(steps)]
    peak = values.index(max(values))
    return (
        f"{what}: {sparkline(rate, steps)} {values[0]:.2g} in the first step, {values[peak]:.2g} at most "
        f"(from step {peak + 1}), {values[-1]:.2g} in the last"
    )


def write(rates: Mapping[str, Rate], steps: int, name: str, path: Path) -> None:
    """A page with the rates of everything that learns. rates: by what they are of."""
    at = sorted({round(i * (steps - 1) / POINTS) for i in range(POINTS + 1)})
    series = [Series(what, [s + 1 for s in at], [rate(s) for s in at]) for what, rate in rates.items()]
    plot = line_plot("Learning rate", series, Axis("step"), Axis("learning rate", zero=True))
    write_text(path, page(f"The schedule of {name}", section("Learning rates", plot)))
