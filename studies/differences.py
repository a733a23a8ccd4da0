"""How the arms of a study differ: in pairs of equal seeds, with intervals over the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import t


@dataclass(frozen=True)
class Difference:
    """Mean of arm - baseline over the seeds that both have."""

    mean: float
    half_width: float  # of the 95 % interval of Student's t over the pairs; inf for a single pair
    pairs: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.mean) > self.half_width


def paired(arm: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Of numbers by seed; None where no seed has both."""
    found = [arm[seed] - baseline[seed] for seed in sorted(arm.keys() & baseline.keys())]
    if not found:
        return None
    if len(found) == 1:
        return Difference(found[0], math.inf, 1)
    spread = statistics.stdev(found) / math.sqrt(len(found))
    return Difference(statistics.fmean(found), float(t.ppf(0.975, len(found) - 1)) * spread, len(found))
