"""Compares two evaluations on the same held-out pictures and the same starting noise, in pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.evaluation import Evaluation


@dataclass(frozen=True)
class Difference:
    mean: float
    half_width: float  # of the 95 % interval over the pairs


def paired(first: NDArray[np.float64], second: NDArray[np.float64]) -> Difference:
    """Mean of first - second over pairs (N,), with a normal 95 % interval."""
    difference = first - second
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else math.inf
    return Difference(float(difference.mean()), 1.96 * spread / math.sqrt(len(difference)))


@dataclass(frozen=True)
class OversamplingComparison:
    """How oversampling differs from plain noise. The intervals know nothing of other training seeds."""

    loss: Difference  # held-out loss
    recognised: Difference  # share

    @classmethod
    def of(cls, oversampled: Evaluation, plain: Evaluation) -> OversamplingComparison:
        return cls(
            paired(oversampled.losses, plain.losses),
            paired(oversampled.verdict.recognised.astype(float), plain.verdict.recognised.astype(float)),
        )
