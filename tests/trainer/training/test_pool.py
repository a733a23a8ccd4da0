"""Pools beyond the micro-batch: which samples are paired together, and that nothing else changes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from trainer.batch import Batch, Geometry, NoiseContext, NoiseDraw
from trainer.training.noise import Streams, gaussian
from trainer.training.pool import NoisePool, Place
from trainer.training.timesteps import TimestepSampler

ACCUMULATION, RANKS, BATCH = 3, 2, 2


class Reverses:
    """Stands for an assignment: hands the noises of a pool out in reverse, and remembers how many it saw."""

    phase = "pair"

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, draw: NoiseDraw, context: NoiseContext) -> NoiseDraw:
        assert len(context.clean) == len(context.timesteps) == len(context.captions) == len(context.images)
        self.seen.append(len(draw.target))
        noise = draw.target.flip(0)
        return NoiseDraw(noise, noise)


def batch(place: Place) -> Batch:
    x = clean(place)
    pair = torch.zeros(len(x), 2, dtype=torch.long)
    names = tuple(f"{place} {row}" for row in range(len(x)))
    return Batch(names, names, Geometry(pair, pair, pair), torch.ones(len(x)), latents=x, images=names)


def clean(place: Place) -> Tensor:
    """Two shapes by turns, and a short batch at the end of every step."""
    height = 4 if (place[0] + place[2]) % 2 else 6
    return torch.zeros(1 if place[1] == ACCUMULATION - 1 else BATCH, 4, height, 4)


def pool(size: int, stage: Reverses) -> NoisePool:
    return NoisePool("reverses", stage, size, batch, TimestepSampler(), ACCUMULATION, RANKS, BATCH)  # type: ignore[arg-type]


def streams(place: Place) -> Streams:
    return Streams(7, *place, torch.device("cpu"))


def plain(place: Place) -> Tensor:
    return gaussian(clean(place), streams(place).generator("noise"))


def rows(tensors: list[Tensor]) -> list[tuple[float, ...]]:
    return sorted(tuple(row.flatten().tolist()) for t in tensors for row in t)


@pytest.mark.parametrize("size", [0, 4, 9])
def test_every_plain_noise_is_used_once_and_shapes_fit(size: int) -> None:
    steps = range(6)
    places = list(itertools.product(steps, range(ACCUMULATION)))
    pools = [pool(size, Reverses()) for _ in range(RANKS)]
    drawn = {
        (*place, rank): pools[rank].draw(streams((*place, rank))).target for place in places for rank in range(RANKS)
    }
    assert all(noise.shape == clean(place).shape for place, noise in drawn.items())
    if 18 % (-(-size // BATCH) or 1) == 0:  # the last window ends with the steps looked at
        assert rows(list(drawn.values())) == rows([plain(place) for place in drawn])


def test_a_step_is_one_pool_over_accumulation_and_processes() -> None:
    stage = Reverses()
    paired = pool(0, stage)
    drawn = [paired.draw(streams((0, micro, 0))).target for micro in range(ACCUMULATION)]
    assert stage.seen == [5, 5]  # two shapes here: rank 0's and rank 1's
    assert torch.equal(drawn[0][0], plain((0, 2, 0))[-1])


def test_a_run_that_resumes_inside_a_window_pairs_the_same() -> None:
    whole, resumed = pool(9, Reverses()), pool(9, Reverses())
    places = list(itertools.product(range(4), range(ACCUMULATION)))
    first = [whole.draw(streams((*place, 1))).target for place in places]
    again = [resumed.draw(streams((*place, 1))).target for place in places[3:]]
    assert all(torch.equal(a, b) for a, b in zip(first[3:], again, strict=True))
