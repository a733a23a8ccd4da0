"""Fixed noise: Gaussian over images, the same for one image, nothing else decides."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from plugins.noise.fixed import PLUGIN, fixed_noise
from tests.plugins.noise.laws import seeded
from trainer.batch import NoiseContext, NoiseDraw


def made(images: list[str], seed: int = 1, *, stream: int = 2, **settings: object) -> Tensor:
    plain = torch.randn(len(images), 4, 8, 8, generator=seeded(stream))
    context = NoiseContext(plain, torch.arange(len(images)) * 100, seeded(stream), (), tuple(images), seed)
    return PLUGIN(PLUGIN.Settings.model_validate(settings))(NoiseDraw(plain, plain), context).target


def test_an_image_keeps_its_noise_whatever_step_and_neighbours() -> None:
    first, again = made(["a", "b"], noises="own"), made(["b", "c", "a"], noises="own", stream=9)
    assert torch.equal(first[0], again[2])
    assert torch.equal(first[1], again[0])


def test_images_views_and_seeds_have_noises_of_their_own() -> None:
    rows = [made([image], seed, noises="own") for image in ("a", "b", "a mirrored") for seed in (1, 2)]
    assert len({tuple(row.flatten().tolist()) for row in rows}) == 6


def test_over_images_the_noise_is_independent_gaussian() -> None:
    noise = torch.stack([fixed_noise((64,), f"photos/{i}.png", 1) for i in range(2000)])
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    assert kstest((noise.sum(dim=1) / 8).numpy(), "norm").pvalue > 1e-3
    assert kstest((noise[:, :-1] * noise[:, 1:]).mean(dim=1).numpy() * 63**0.5, "norm").pvalue > 1e-3
    between = (noise[::2] * noise[1::2]).mean(dim=1) * 8
    assert kstest(between.numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_number_of_noises_is_shared_evenly(count: int) -> None:
    noise = made([str(i) for i in range(400)], noises=count)
    shared, times = noise.flatten(1).unique(dim=0, return_counts=True)
    assert len(shared) == count
    assert float(times.float().std(correction=0)) < 3 * math.sqrt(400 / count)


def test_timesteps_outside_the_window_keep_the_plain_noise() -> None:
    plain = torch.randn(4, 4, 8, 8, generator=seeded(2))
    noise = made(list("abcd"), noises="own", timesteps=[100, 300])
    assert [torch.equal(noise[i], plain[i]) for i in range(4)] == [True, False, False, True]


def test_images_without_keys_are_refused() -> None:
    plain = torch.zeros(2, 4)
    with pytest.raises(ValueError, match="key of every image"):
        PLUGIN(PLUGIN.Settings(noises="own"))(
            NoiseDraw(plain, plain), NoiseContext(plain, torch.zeros(2), seeded(1), images=("a",))
        )


def test_what_the_noise_tells() -> None:
    assert PLUGIN.information(PLUGIN.Settings(noises="own"), 0) == math.inf
    assert PLUGIN.information(PLUGIN.Settings(noises=8), 0) == pytest.approx(math.log(8))
