"""Scores of a folder of pictures against a reference, each with an interval from resampled pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from trainer.reports.scores import distances
from trainer.reports.scores.distances import Features

LEAST = 16  # pictures in a set, below which nothing can be said
SHARES = (2.5, 97.5)  # per cent, of the resampled scores: a 95 % interval


@dataclass(frozen=True)
class Score:
    name: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        told = f"{self.name}: {self.value:.4g} (95 %: {self.low:.4g} to {self.high:.4g})"
        if self.low <= self.value <= self.high:
            return told
        return f"{told}; so few pictures alone make it that much larger, which the interval leaves out"


def scores(
    drawn: Features,
    reference: Features,
    *,
    resamples: int,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Score]:
    """All scores. Both sets are resampled with replacement; of precision and recall only the pictures that are judged,
    not those that say what is covered."""
    random = np.random.default_rng(seed)
    near = distances.kernel(drawn, drawn), distances.kernel(drawn, reference), distances.kernel(reference, reference)
    inside, reached = distances.covered(drawn, reference), distances.covered(reference, drawn)
    rows = []
    for number, (w1, w2) in enumerate(_weights(random, len(drawn), len(reference), resamples)):
        shares = [float(w @ hit / w.sum()) for w, hit in ((w1, inside), (w2, reached))]
        rows.append((distances.frechet(drawn, reference, (w1, w2)), distances.kid(*near, (w1, w2)), *shares))
        on_progress(number + 1, resamples)
    values = (distances.frechet(drawn, reference), distances.kid(*near), inside.mean(), reached.mean())
    names = ("Frechet distance", "KID", "precision", "recall")
    return [_score(name, float(v), [r[i] for r in rows]) for i, (name, v) in enumerate(zip(names, values, strict=True))]


def _weights(random: np.random.Generator, one: int, other: int, resamples: int) -> Iterator[tuple[Features, Features]]:
    """How often each picture of both sets is drawn, of as many as there are."""
    for _ in range(resamples):
        yield _counts(random, one), _counts(random, other)


def _counts(random: np.random.Generator, count: int) -> Features:
    return np.bincount(random.integers(0, count, count), minlength=count).astype(np.float64)


def _score(name: str, value: float, resampled: list[float]) -> Score:
    """With the basic bootstrap interval: resampling moves a distance as far up again as sampling did (Davison and
    Hinkley 1997, section 5.2)."""
    low, high = np.percentile(resampled, SHARES)
    bounds = (0.0, 1.0) if name in ("precision", "recall") else (0.0 if name.startswith("Frechet") else -np.inf, np.inf)
    ends = np.clip((2 * value - high, 2 * value - low), *bounds)
    return Score(name, value, float(ends[0]), float(ends[1]))
