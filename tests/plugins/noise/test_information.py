"""How much of its image a chosen noise holds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plugins.noise._nearest import rank_information
from plugins.noise.assignment import Assignment, AssignmentSettings
from plugins.noise.oversampling import Oversampling, OversamplingSettings


@pytest.mark.parametrize(("k", "nats"), [(1, 0.0), (2, 0.19), (4, 0.64), (8, 1.20), (64, 3.17), (1024, 5.93)])
def test_nearest_of_k(k: int, nats: float) -> None:
    assert rank_information(k) == pytest.approx(nats, abs=0.006)


@pytest.mark.parametrize("k", [3, 8, 64])
def test_all_but_the_farthest(k: int) -> None:
    """One of the nearest k - 1 at random has the rank share's density k / (k - 1) (1 - p^(k - 1))."""
    p = (np.arange(1_000_000) + 0.5) / 1_000_000
    density = k / (k - 1) * (1 - p ** (k - 1))
    assert rank_information(k, k - 1) == pytest.approx(float(np.mean(density * np.log(density))), abs=1e-5)


@pytest.mark.parametrize(("k", "among"), [(8, 3), (16, 4)])
def test_among_agrees_with_sorted_uniform_numbers(k: int, among: int) -> None:
    """The rank share of a candidate is uniform; picked ones, drawn and sorted, give the divergence from a histogram."""
    shares = np.sort(np.random.default_rng(0).random((200_000, k)), axis=1)[:, :among].ravel()
    counts, _ = np.histogram(shares, bins=100, range=(0, 1))
    density = counts / counts.mean()
    histogram = float(np.mean(density * np.log(np.maximum(density, 1e-12))))
    assert rank_information(k, among) == pytest.approx(histogram, rel=0.02)


def test_any_of_all_says_nothing() -> None:
    assert rank_information(8, 8) == 0


def test_stages_pass_it_on() -> None:
    assert Oversampling.information(OversamplingSettings(k=64, among=2), 0) == rank_information(64, 2)
    assert Assignment.information(AssignmentSettings(pool=128, candidates=4), 128) == pytest.approx(math.log(512))
