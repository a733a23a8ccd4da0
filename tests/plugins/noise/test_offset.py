"""Offset noise against kohya's formulas, its law, and the paper's time-dependent coefficients."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from plugins.noise.offset import PLUGIN, psi, stable_diffusion_psi
from tests.plugins.noise.laws import seeded
from trainer.batch import NoiseContext, NoiseDraw


def shifted(plain: Tensor, clean: Tensor, at: Tensor, seed: int = 3, **settings: object) -> Tensor:
    before = plain.clone()
    draw = PLUGIN(PLUGIN.Settings.model_validate(settings))(
        NoiseDraw(plain, plain), NoiseContext(clean, at, seeded(seed))
    )
    assert draw.target is draw.mixed
    assert torch.equal(plain, before), "the draw it was given must stay as it is"
    assert (draw.target.shape, draw.target.dtype) == (plain.shape, plain.dtype)
    return draw.target


def inputs(batch: int, *spatial: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = (batch, 4, *spatial)
    clean = torch.randn(shape, generator=seeded(1)) + 0.5
    return torch.randn(shape, generator=seeded(2)), clean, torch.full((batch,), 500)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("adaptive", [0.0, 0.2, -0.5])
@pytest.mark.parametrize("random_strength", [False, True])
def test_the_formula_is_kohyas(batch: int, adaptive: float, random_strength: bool) -> None:
    plain, clean, at = inputs(batch, 8, 8)
    found = shifted(plain, clean, at, strength=0.1, adaptive=adaptive, random_strength=random_strength)
    generator = seeded(3)
    strength: float | Tensor = torch.rand(1, generator=generator) * 0.1 if random_strength else 0.1
    if adaptive:
        strength = torch.clamp(strength + adaptive * clean.mean(dim=(2, 3), keepdim=True).abs(), 0.0, None)
    assert torch.equal(found, plain + strength * torch.randn((batch, 4, 1, 1), generator=generator))


@pytest.mark.parametrize("spatial", [(8, 8), (3, 8, 8), (5,), ()])
def test_every_channel_of_a_sample_shifts_as_one(spatial: tuple[int, ...]) -> None:
    plain, clean, at = inputs(2, *spatial)
    shift = (shifted(plain, clean, at, strength=0.5, adaptive=0.1) - plain).reshape(2, 4, -1)
    assert torch.allclose(shift, shift[..., :1].expand_as(shift), atol=1e-6)
    assert len({round(v, 4) for v in shift[..., 0].flatten().tolist()}) == 8


def test_the_law_gains_a_shared_variance_and_no_mean() -> None:
    plain, clean, at = inputs(20_000, 2, 2)
    noise = shifted(plain, clean, at, strength=0.5)[:, 0].flatten(1)  # (N, 4 pixels of a channel)
    covariance = torch.cov(noise.T)
    assert torch.allclose(covariance, torch.eye(4) + 0.25, atol=0.04)
    assert float(noise.mean(dim=0).abs().max()) < 0.03
    with_latent = (noise * (clean[:, 0].flatten(1) - 0.5)).mean()
    assert abs(float(with_latent)) < 0.02


def test_random_strength_is_uniform_below_the_strength() -> None:
    plain, clean, at = inputs(1, 1)
    drawn = [
        float(shifted(plain, clean, at, seed=s, strength=0.5, random_strength=True).sub(plain).square().mean())
        for s in range(1500)
    ]
    assert sum(drawn) / len(drawn) == pytest.approx(0.25 / 3, rel=0.12)  # E[(0.5 U)^2]


def papers_psi(alphas_cumprod: Tensor) -> Tensor:
    """arXiv 2412.03134, algorithm 1 step by step: gamma by recursion, normalised, then equation 22."""
    before = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    alphas = alphas_cumprod / before
    gammas = [1.0]
    for t in range(1, len(alphas)):
        total = sum(g / float(b) ** 0.5 for g, b in zip(gammas, before, strict=False))
        gammas.append(float((1 - alphas[t]) * before[t].sqrt() / (alphas[t] * (1 - before[t]))) * total)
    sums = (torch.tensor(gammas, dtype=torch.float64) / before.sqrt()).cumsum(dim=0)
    found = sums / (1 - alphas_cumprod).sqrt()
    return found / found[-1]


def test_psi_is_the_papers_recursion() -> None:
    alphas_cumprod = (1 - torch.linspace(1e-3, 0.05, 200, dtype=torch.float64)).cumprod(dim=0)
    assert torch.allclose(psi(alphas_cumprod), papers_psi(alphas_cumprod), rtol=1e-9)


def test_psi_of_stable_diffusion() -> None:
    found = stable_diffusion_psi(torch.device("cpu"))
    assert found[[0, 500, 900, 999]].tolist() == pytest.approx([1.36e-4, 0.0144, 0.334, 1.0], rel=0.02)
    assert bool((found.diff() > 0).all())


def test_the_time_dependent_offset_scales_by_psi() -> None:
    plain, clean, _ = inputs(3, 8, 8)
    at = torch.tensor([0, 900, 999])
    full = shifted(plain, clean, at, strength=0.5) - plain
    scaled = shifted(plain, clean, at, strength=0.5, time_dependent=True) - plain
    expected = full * stable_diffusion_psi(at.device)[at].reshape(3, 1, 1, 1)
    assert torch.allclose(scaled, expected, atol=1e-6)


def test_settings() -> None:
    assert not PLUGIN.active(PLUGIN.Settings())
    assert PLUGIN.active(PLUGIN.Settings(strength=0.05))
    for wrong in ({"strength": -0.1}, {"strength": "much"}, {"noise_offset": 0.1}):
        with pytest.raises(ValidationError):
            PLUGIN.Settings.model_validate(wrong)
