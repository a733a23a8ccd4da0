"""The demo's autoencoder: balancing changes the latents and nothing that is seen."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from demo import printed, vae


def pictures(count: int) -> torch.Tensor:
    return vae.to_pixels([printed.draw(5, index).image for index in range(count)])


def test_pixels_are_scaled_to_minus_one_and_one():
    pixels = pictures(8)
    assert pixels.shape == (8, 3, 32, 32)
    assert -1 <= pixels.min() < -0.5 < 0.5 < pixels.max() <= 1


def spread(model: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (C,) of the latent channels, and the variances along their principal directions."""
    with torch.no_grad():
        latents = model.encode(pixels).latent_dist.mean  # (N, 4, 16, 16)
    cells = latents.transpose(0, 1).flatten(1)
    return cells.mean(dim=1), torch.linalg.eigvalsh(torch.cov(cells))


@pytest.mark.parametrize("power", [0, 0.5, 1])
def test_balancing_changes_the_latents_but_no_reconstruction(power):
    model, pixels = vae._fresh(0).eval(), pictures(64)
    seen, (_, variances) = vae.reconstruct(model, pixels), spread(model, pixels)
    vae._balance(model, pixels, power)
    assert torch.allclose(vae.reconstruct(model, pixels), seen, atol=1e-3)
    mean, balanced = spread(model, pixels)
    assert torch.allclose(mean, torch.zeros(4), atol=1e-3)
    assert balanced.mean() == pytest.approx(1, rel=1e-2)
    expected = variances ** (1 - power)
    assert torch.allclose(balanced / balanced.sum(), expected / expected.sum(), atol=1e-2)


def test_training_lowers_the_error_and_is_repeatable():
    pixels = pictures(64)
    recipe = vae.VaeRecipe(steps=40, batch=8, warmup=5)
    trained = vae.train(pixels, recipe, lambda step, loss: None)
    again = vae.train(pixels, recipe, lambda step, loss: None)
    assert vae.psnr(vae.reconstruct(trained, pixels), pixels) > vae.psnr(vae.reconstruct(vae._fresh(0), pixels), pixels)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), again.parameters(), strict=True))


def test_psnr_of_a_known_error():
    pixels = torch.zeros(2, 3, 4, 4)
    assert vae.psnr(pixels + 0.2, pixels) == pytest.approx(10 * math.log10(4 / 0.04))
