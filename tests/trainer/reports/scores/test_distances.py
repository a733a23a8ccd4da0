"""Distances against their definitions written as loops, and against laws whose distance is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from trainer.reports.scores import distances
from trainer.reports.scores.distances import Features
from trainer.reports.scores.scores import scores


def sample(count: int, dim: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Features:
    return np.random.default_rng(seed).normal(size=(count, dim)) * scale + shift


def exactly(mean: Features, covariance: Features, seed: int) -> Features:
    """A sample that has just these moments."""
    x = sample(60, len(mean), seed)
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_known_moments() -> None:
    mixing = sample(4, 4, 0)
    one, other = mixing @ mixing.T + np.eye(4), np.diag([1.0, 2.0, 0.5, 3.0])
    mean = np.array([1.0, 0.0, -2.0, 0.5])
    expected = (mean**2).sum() + np.trace(one + other - 2 * np.real(sqrtm(one @ other)))
    found = distances.frechet(exactly(mean, one, 1), exactly(np.zeros(4), other, 2))
    assert found == pytest.approx(float(expected), rel=1e-9)


def test_frechet_distance_of_a_set_to_itself_and_moved() -> None:
    x = sample(50, 5, 3)
    assert distances.frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert distances.frechet(x, x + 2.0) == pytest.approx(5 * 4.0)
    assert distances.frechet(x[:4], x[4:8]) > 0  # fewer pictures than features: singular, but a number


def test_kid_is_its_definition() -> None:
    one, other = sample(7, 3, 4), sample(9, 3, 5, shift=0.3)

    def k(a: Features, b: Features) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within = np.mean([k(a, b) for i, a in enumerate(one) for j, b in enumerate(one) if i != j])
    beyond = np.mean([k(a, b) for i, a in enumerate(other) for j, b in enumerate(other) if i != j])
    across = np.mean([k(a, b) for a in one for b in other])
    kernels = distances.kernel(one, one), distances.kernel(one, other), distances.kernel(other, other)
    assert distances.kid(*kernels) == pytest.approx(within + beyond - 2 * across)


def test_kid_has_no_bias() -> None:
    found = []
    for seed in range(300):
        one, other = sample(10, 3, 2 * seed), sample(12, 3, 2 * seed + 1)
        found.append(distances.kid(*(distances.kernel(a, b) for a, b in ((one, one), (one, other), (other, other)))))
    error = np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found)) < 4 * error and min(found) < 0


def test_a_weight_is_a_repetition() -> None:
    one, other = sample(8, 3, 6), sample(6, 3, 7)
    w1, w2 = np.array([2, 0, 1, 1, 3, 0, 1, 0.0]), np.array([1, 1, 0, 2, 1, 1.0])
    repeated = np.repeat(one, w1.astype(int), axis=0), np.repeat(other, w2.astype(int), axis=0)
    assert distances.frechet(one, other, (w1, w2)) == pytest.approx(distances.frechet(*repeated))
    kernels = distances.kernel(one, one), distances.kernel(one, other), distances.kernel(other, other)
    rows = np.repeat(np.arange(8), w1.astype(int))
    within = np.mean([kernels[0][a, b] for a in rows for b in rows if a != b])  # no picture is its own pair
    others = np.repeat(np.arange(6), w2.astype(int))
    beyond = np.mean([kernels[2][a, b] for a in others for b in others if a != b])
    across = np.mean([kernels[1][a, b] for a in rows for b in others])
    assert distances.kid(*kernels, (w1, w2)) == pytest.approx(within + beyond - 2 * across)


def test_what_is_covered_is_its_definition() -> None:
    points, by = sample(40, 2, 8, scale=2), sample(30, 2, 9)
    expected = []
    for point in points:
        hit = False
        for index, centre in enumerate(by):
            others = sorted(np.linalg.norm(by - centre, axis=1)[np.arange(30) != index])
            hit |= bool(np.linalg.norm(point - centre) <= others[distances.NEIGHBOURS - 1])
        expected.append(hit)
    assert distances.covered(points, by).tolist() == expected
    assert 0 < sum(expected) < 40


def test_precision_and_recall_tell_what_is_missing() -> None:
    """Half of the reference's law: all that is drawn is like it, and half of it is never drawn."""
    reference = np.concatenate([sample(60, 2, 10, -9), sample(60, 2, 11, 9)])
    told = {one.name: one for one in scores(sample(100, 2, 12, 9), reference, resamples=50, seed=0)}
    assert told["precision"].value > 0.8 and 0.4 < told["recall"].value < 0.55
    assert told["recall"].low < told["recall"].value < told["recall"].high


def test_intervals_hold_the_distance_of_the_laws() -> None:
    """Of 40 pairs of samples; 95 % intervals of few pictures are a little short."""
    large = sample(3000, 3, 13), sample(3000, 3, 14, shift=0.5)
    truth = distances.kid(*(distances.kernel(a, b) for a, b in ((large[0],) * 2, large, (large[1],) * 2)))
    held = 0
    for seed in range(40):
        told = scores(sample(64, 3, 100 + seed), sample(64, 3, 200 + seed, shift=0.5), resamples=60, seed=seed)
        held += told[1].low <= truth <= told[1].high
    assert 31 <= held <= 40


def test_a_value_that_few_pictures_made_too_large_says_so() -> None:
    """Two samples of one law, of fewer pictures than features: a distance, and an interval that has none."""
    told = scores(sample(20, 30, 17), sample(20, 30, 18), resamples=20, seed=0)[0]
    assert told.value > told.high and "so few pictures alone make it that much larger" in str(told)
    few = scores(sample(400, 2, 19), sample(400, 2, 20, shift=1), resamples=20, seed=0)[0]
    assert few.low < few.value < few.high and "few pictures" not in str(few)


def test_the_same_seed_gives_the_same_interval() -> None:
    one, other = sample(30, 3, 15), sample(30, 3, 16)
    first, second, third = (scores(one, other, resamples=20, seed=seed) for seed in (1, 1, 2))
    assert first == second and first != third
