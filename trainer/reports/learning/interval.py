"""How much lower one set of losses is than another, asked the same questions, with an interval over images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.validation.measurements import Losses

RESAMPLES = 4000
CONFIDENCE = 0.95
FEWEST = 5  # images that an interval needs


@dataclass(frozen=True)
class LossReduction:
    """A share of the loss, above 0 = lower than before; `low` and `high` bound it at 95 %, None with too few images."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def better(self) -> bool:
        return self.low is not None and self.low > 0

    @property
    def negative(self) -> LossReduction:
        """The same as a loss instead of a gain."""
        return LossReduction(
            -self.mean, None if self.high is None else -self.high, None if self.low is None else -self.low
        )

    @property
    def worse(self) -> bool:
        return self.high is not None and self.high < 0


def improvement(
    before: Losses, after: Losses, images: Sequence[str], where: NDArray[np.bool_] | None = None
) -> LossReduction:
    """1 - mean(after) / mean(before), paired.

    before, after: (N, D), the same questions; images: (N,) what each row shows; where: (N, D), only these questions.
    Draws of one image are not independent, so whole images are resampled, and all rows of an image with it.
    """
    mask = np.ones(before.shape, dtype=bool) if where is None else where
    _, index = np.unique(np.asarray(images), return_inverse=True)
    totals = [np.bincount(index, weights=np.where(mask, losses, 0).sum(1)) for losses in (before, after)]
    mean = 1 - totals[1].sum() / totals[0].sum()
    asked = np.bincount(index, weights=mask.sum(1)) > 0
    totals = [total[asked] for total in totals]
    count = len(totals[0])
    if count < FEWEST:
        return LossReduction(float(mean))
    weights = _resamples(count)
    drawn = 1 - (weights @ totals[1]) / (weights @ totals[0])
    tail = _tail(count)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return LossReduction(float(mean), float(low), float(high))


def _resamples(count: int) -> NDArray[np.float64]:
    """(RESAMPLES, count): how often each image is in each resample; the same every time."""
    return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)


def _tail(count: int) -> float:
    """The share cut off at each end. Percentile intervals of few images are too narrow; this widens them to what a
    t-interval has (Hesterberg 2015, arXiv 1411.5279, the expanded percentile interval)."""
    from scipy.special import ndtr, stdtrit  # takes a while

    t = stdtrit(count - 1, (1 - CONFIDENCE) / 2)  # the quantile of Student's t
    return float(ndtr(t * math.sqrt(count / (count - 1))))
