"""Pyramid noise against kohya's formula and its law."""

from __future__ import annotations

import random

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import interpolate

from plugins.noise.pyramid import PLUGIN, pyramid_like, sizes
from tests.plugins.noise.laws import seeded
from trainer.batch import NoiseContext, NoiseDraw


def kohyas(noise: Tensor, iterations: int, discount: float, ratios: list[float], generator: torch.Generator) -> Tensor:
    """sd-scripts' multi-resolution noise with the ratios given instead of drawn as it goes."""
    total = noise.clone()
    height, width = noise.shape[2:]
    for i in range(iterations):
        h, w = max(1, int(height / ratios[i] ** i)), max(1, int(width / ratios[i] ** i))
        level = torch.randn((*noise.shape[:2], h, w), generator=generator)
        total += torch.nn.Upsample(size=(height, width), mode="bilinear")(level) * discount**i
        if h == 1 or w == 1:
            break
    return total / total.std()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("discount", [0.3, 0.8])
def test_the_formula_is_kohyas(batch: int, discount: float) -> None:
    noise = torch.randn(batch, 4, 32, 48, generator=seeded(1))
    found = pyramid_like(noise, iterations=6, discount=discount, generator=seeded(2))
    generator = seeded(2)
    ratios = [2 + 2 * r for r in torch.rand(6, generator=generator, dtype=torch.float64).tolist()]
    assert torch.allclose(found, kohyas(noise, 6, discount, ratios, generator), atol=1e-6)


def test_levels_stop_at_the_first_side_of_one() -> None:
    assert sizes(64, 96, [2.5, 2.0, 3.0, 4.0, 4.0, 2.0]) == [(64, 96), (32, 48), (7, 10), (1, 1)]
    assert sizes(2, 64, [4.0, 4.0, 4.0]) == [(2, 64), (1, 16)]
    assert sizes(64, 64, [2.0]) == [(64, 64)]


def power(noise: Tensor) -> Tensor:
    """Mean power of the means over 32x32, 8x8 and 2x2 blocks, each 1 for white noise; (3,)."""
    means = (interpolate(noise, size=(n, n), mode="area") * (noise.shape[-1] / n) for n in (1, 4, 16))
    return torch.stack([mean.square().mean() for mean in means])


def test_the_law_is_that_of_kohyas_formula() -> None:
    chooser, generator = random.Random(1), seeded(1)
    theirs, ours = [], []
    for part in range(80):
        plain = torch.randn(12, 4, 32, 32, generator=generator)
        ratios = [chooser.random() * 2 + 2 for _ in range(6)]
        theirs.append(power(kohyas(plain, 6, 0.4, ratios, generator)))
        ours.append(power(pyramid_like(plain, iterations=6, discount=0.4, generator=seeded(100 + part))))
    assert torch.stack(ours).mean(0).tolist() == pytest.approx(torch.stack(theirs).mean(0).tolist(), rel=0.15)


def test_variance_is_one_and_coarse_frequencies_gain() -> None:
    plain = torch.randn(200, 4, 32, 32, generator=seeded(1))
    noise = pyramid_like(plain, iterations=6, discount=0.4, generator=seeded(2))
    assert float(noise.std()) == pytest.approx(1, abs=1e-5)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    coarse, middle, fine = (power(noise) / power(plain)).tolist()
    assert coarse > 2
    assert coarse > middle > fine
    latent = torch.randn(plain.shape, generator=seeded(3))
    assert abs(float((noise * latent).mean())) < 0.01


def test_one_level_is_white_noise_again() -> None:
    plain = torch.randn(200, 4, 16, 16, generator=seeded(1))
    noise = pyramid_like(plain, iterations=1, discount=0.4, generator=seeded(2))
    assert (power(noise) / power(plain)).tolist() == pytest.approx([1, 1, 1], abs=0.15)
    assert float((noise * plain).mean()) == pytest.approx(0.5**0.5, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 4, 3, 8, 8), (2, 4, 8), (3, 16)])
def test_any_number_of_dimensions(shape: tuple[int, ...]) -> None:
    plain = torch.randn(shape, generator=seeded(1))
    before = plain.clone()
    context = NoiseContext(plain, torch.zeros(shape[0]), seeded(2))
    draw = PLUGIN(PLUGIN.Settings(iterations=6))(NoiseDraw(plain, plain), context)
    assert torch.equal(plain, before), "the draw it was given must stay as it is"
    assert draw.target is draw.mixed
    assert draw.target.shape == plain.shape
    assert float(draw.target.std()) == pytest.approx(1, abs=1e-5)


def test_frames_of_a_video_are_enlarged_each_for_itself() -> None:
    plain = torch.randn(2, 4, 3, 16, 16, generator=seeded(1))
    noise = pyramid_like(plain, iterations=4, discount=0.5, generator=seeded(2))
    folded = pyramid_like(plain.flatten(1, 2), iterations=4, discount=0.5, generator=seeded(2))
    assert torch.equal(noise.flatten(1, 2), folded)


def test_settings() -> None:
    assert not PLUGIN.active(PLUGIN.Settings())
    assert PLUGIN.active(PLUGIN.Settings(iterations=6))
    for wrong in ({"iterations": -1}, {"iterations": 2.5}, {"discount": 0.0}, {"multires_noise_iterations": 6}):
        with pytest.raises(ValidationError):
            PLUGIN.Settings.model_validate(wrong)
