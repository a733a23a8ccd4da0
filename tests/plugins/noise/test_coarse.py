"""Oversampling that compares means over blocks: the law of the definition, and only low frequencies change."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from plugins.noise._moments import winner_moments
from plugins.noise.oversampling import PLUGIN, nearest_of
from tests.plugins.noise.laws import assert_same_law, p_values, seeded
from trainer.batch import NoiseContext, NoiseDraw

SHAPES = [(2, 8, 8, 4), (1, 5, 7, 3), (4, 3, 3, 8)]  # C, h, w, block: whole blocks, some cut at the edges, one alone


def pooled(latents: Tensor, block: int) -> Tensor:
    """(B, C, h, w) -> (B, d): block means times the root of how many numbers they are of, by torch's own pooling."""
    means = F.avg_pool2d(latents, block, ceil_mode=True, count_include_pad=False)
    numbers = F.avg_pool2d(torch.ones_like(latents), block, ceil_mode=True, divisor_override=1)
    return (means * numbers.sqrt()).flatten(1)


def by_definition(x: Tensor, rows: int, k: int, block: int, metric: str, seed: int) -> Tensor:
    """Draws k of x's shape, (C, h, w), keeps the one whose block means are nearest: (rows, D)."""
    noises = torch.randn(rows * k, *x.shape, generator=seeded(seed))
    seen, wanted = pooled(noises, block), pooled(x[None], block)
    far = (seen - wanted).norm(dim=1) if metric == "euclidean" else -torch.cosine_similarity(seen, wanted, dim=1)
    best = far.view(rows, k).argmin(dim=1)
    return noises.view(rows, k, -1)[torch.arange(rows), best]


@pytest.mark.parametrize("candidates", ["lazy", "eager"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("c", "h", "w", "block"), SHAPES)
def test_it_has_the_law_of_the_definition(c: int, h: int, w: int, block: int, metric: str, candidates: str) -> None:
    x = torch.randn(c, h, w, generator=seeded(1)) + 0.5
    expected = by_definition(x, 3000, 8, block, metric, 2)
    many = x.expand(3000, -1, -1, -1)
    found = nearest_of(many, 8, generator=seeded(3), metric=metric, candidates=candidates, block=block)  # type: ignore[arg-type]
    assert_same_law(found.flatten(1), expected, x.flatten())
    means = pooled(x[None], block)[0]
    if len(means) > 1:
        assert_same_law(pooled(found, block), pooled(expected.view_as(found), block), means)


def test_the_law_test_tells_coarse_from_full() -> None:
    x = torch.randn(2, 8, 8, generator=seeded(1))
    full = nearest_of(x.expand(3000, -1, -1, -1), 8, generator=seeded(3))
    assert min(p_values(full.flatten(1), by_definition(x, 3000, 8, 4, "euclidean", 2), x.flatten()).values()) < 1e-8


def test_fine_detail_of_the_noise_stays_as_it_was_drawn() -> None:
    x = torch.randn(6, 4, 9, 8, generator=seeded(1))
    plain = torch.randn(x.shape, generator=seeded(2))
    stage = PLUGIN(PLUGIN.Settings(k=64, score="coarse", block=4))
    found = stage(NoiseDraw(plain, plain), NoiseContext(x, torch.arange(6), seeded(3))).target
    changed = (found - plain).unflatten(2, (-1, 3))[:, :, 0]  # rows of one block move together
    torch.testing.assert_close(changed, changed[:, :, :1].expand_as(changed), atol=1e-5, rtol=0)
    nearer = (pooled(found, 4) - pooled(x, 4)).norm(dim=1) <= (pooled(plain, 4) - pooled(x, 4)).norm(dim=1) + 1e-5
    assert bool(nearer.all())
    assert not torch.equal(found, plain)


def test_it_pulls_along_the_means_as_the_full_score_along_all() -> None:
    """In the space of the means it is ordinary oversampling of a latent with their length; beside it, plain noise."""
    x = torch.randn(4, 32, 32, generator=seeded(1))
    found = nearest_of(x.expand(2000, -1, -1, -1), 64, generator=seeded(2), block=4)
    means = pooled(x[None], 4)[0]
    lean = float((pooled(found, 4) @ means / means.norm()).mean())
    exact = winner_moments(64, len(means), float(means.norm()) / math.sqrt(len(means))).mean
    assert exact > 1.5
    assert lean == pytest.approx(exact, abs=5 / math.sqrt(2000))
    fine = x - F.interpolate(F.avg_pool2d(x[None], 4), scale_factor=4.0)[0]
    beside = float((found.flatten(1) @ fine.flatten() / fine.norm()).mean())
    assert abs(beside) < 5 / math.sqrt(2000)


@pytest.mark.parametrize(("block", "shape"), [(0, (2, 4, 8, 8)), (4, (2, 64))])
def test_blocks_that_cannot_be_are_refused(block: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="block must be 1"):
        nearest_of(torch.zeros(shape), 4, generator=seeded(1), block=block)


def test_a_block_of_one_number_is_the_full_score() -> None:
    x = torch.randn(3, 4, 8, 8, generator=seeded(1))
    assert torch.equal(nearest_of(x, 8, generator=seeded(2), block=1), nearest_of(x, 8, generator=seeded(2)))


def test_a_block_without_a_coarse_score_is_refused() -> None:
    assert PLUGIN.Settings(k=8, score="coarse", block=4).block == 4
    with pytest.raises(ValidationError, match="block = 4 has no meaning"):
        PLUGIN.Settings(k=8, block=4)
