"""Moving averages of the curves of a run."""

from __future__ import annotations

import math

import numpy as np

from trainer.reports.plot import Values

MOST_SMOOTHED = 4000


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
