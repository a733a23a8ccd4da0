"""The interval covers what it says, counts images rather than rows, and a plain gain comes out exactly."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.reports.learning import interval as estimate
from trainer.reports.learning.interval import improvement


def losses(images: int, draws: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(4, 0.05, (images, draws))


def names(count: int) -> list[str]:
    return [f"photos/{i}.png" for i in range(count)]


def test_a_gain_by_the_same_share_everywhere_has_no_uncertainty() -> None:
    before = losses(20, 4)
    found = improvement(before, 0.9 * before, names(20))
    assert found.mean == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)
    assert found.better
    assert not found.worse


def test_swapping_before_and_after_turns_better_into_worse() -> None:
    before, noise = losses(30, 4), losses(30, 4, seed=1)
    after = before - 0.02 + 0.01 * noise
    assert improvement(before, after, names(30)).better
    assert improvement(after, before, names(30)).worse


def test_no_change_but_chance_is_neither() -> None:
    random = np.random.default_rng(3)
    before = losses(40, 4)
    found = improvement(before, before + random.normal(0, 0.01, before.shape), names(40))
    assert not found.better
    assert not found.worse


@pytest.mark.parametrize("images", [6, 25])
def test_the_interval_holds_the_truth_in_95_of_100_cases(images: int) -> None:
    """Images differ in how much they gain; the truth is the mean over all images there could be."""
    random, repeats, held = np.random.default_rng(images), 600, 0
    for _ in range(repeats):
        gain = random.normal(0.05, 0.04, (images, 1)) + random.normal(0, 0.02, (images, 4))
        found = improvement(np.ones((images, 4)), 1 - gain, names(images))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.05 <= found.high
    # Standard error of the share: 0.9 points.
    assert 0.92 <= held / repeats <= 0.98


def test_more_draws_of_the_same_images_do_not_narrow_the_interval_much() -> None:
    """Rows of one image are not independent: resampling rows would make the interval four times narrower here."""
    random = np.random.default_rng(5)
    gain = random.normal(0.05, 0.04, (30, 1))
    widths = []
    for draws in (2, 32):
        found = improvement(np.ones((30, draws)), 1 - gain - random.normal(0, 0.002, (30, draws)), names(30))
        assert found.low is not None
        assert found.high is not None
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


def test_one_image_in_two_sizes_counts_once() -> None:
    before = losses(20, 4)
    after = before * (1 - losses(20, 1, seed=2))
    once = improvement(before, after, names(20))
    twice = improvement(np.repeat(before, 2, 0), np.repeat(after, 2, 0), [n for n in names(20) for _ in range(2)])
    assert twice == once


def test_only_the_questions_that_are_asked_for_count() -> None:
    before, where = np.ones((10, 2)), np.zeros((10, 2), dtype=bool)
    where[:, 1] = True
    after = np.array([[9.0, 0.8]] * 10)
    assert improvement(before, after, names(10), where).mean == pytest.approx(0.2)


def test_too_few_images_get_no_interval() -> None:
    count = estimate.FEWEST - 1
    found = improvement(np.ones((count, 4)), np.full((count, 4), 0.5), names(count))
    assert (found.low, found.high) == (None, None)
    assert found.mean == pytest.approx(0.5)
    assert not found.better
