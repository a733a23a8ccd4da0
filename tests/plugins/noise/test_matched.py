"""The control stage has the mean and covariance of oversampling's noise, and nothing else of it."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

from plugins.noise._moments import winner_moments
from plugins.noise.matched import PLUGIN, matched_to
from plugins.noise.oversampling import nearest_of
from tests.plugins.noise.laws import p_values, seeded
from trainer.batch import NoiseContext, NoiseDraw

CASES = [(4, 64, 1.0, "euclidean", 1), (64, 256, 1.26, "euclidean", 1), (64, 64, 0.2, "euclidean", 4)]
CASES += [(16, 64, 1.0, "cosine", 1), (8, 64, 5.0, "cosine", 8), (16, 2, 3.0, "euclidean", 1)]


def latent(dim: int, rms: float) -> Tensor:
    x = torch.randn(dim, generator=seeded(7))
    return x * rms * math.sqrt(dim) / x.norm()


def sampled(noise: Tensor, x: Tensor) -> tuple[float, float, float]:
    along = noise @ x / x.norm()
    rest = (noise.square().sum(dim=1) - along.square()) / max(1, len(x) - 1)
    return float(along.mean()), float(along.var()), float(rest.mean())


@pytest.mark.parametrize(("k", "dim", "rms", "metric", "among"), CASES)
def test_integrated_moments_are_those_of_drawn_winners(k: int, dim: int, rms: float, metric: str, among: int) -> None:
    x = latent(dim, rms)
    drawn = nearest_of(x.expand(20_000, -1), k, generator=seeded(1), metric=metric, among=among)  # type: ignore[arg-type]
    m = winner_moments(k, dim, rms, metric, among)  # type: ignore[arg-type]
    assert sampled(drawn, x) == pytest.approx((m.mean, m.variance, m.rest), abs=0.02)
    assert float((drawn - x).norm(dim=1).mean()) == pytest.approx(m.distance, abs=0.02)
    assert float((drawn @ x / x.norm() / drawn.norm(dim=1)).mean()) == pytest.approx(m.cosine, abs=0.01)


@pytest.mark.parametrize(("k", "dim", "rms", "metric", "among"), CASES)
def test_the_control_has_the_moments_of_oversampling(k: int, dim: int, rms: float, metric: str, among: int) -> None:
    x = latent(dim, rms)
    plain = torch.randn(20_000, dim, generator=seeded(2))
    noise = matched_to(x.expand_as(plain), plain, k, metric=metric, among=among)  # type: ignore[arg-type]
    m = winner_moments(k, dim, rms, metric, among)  # type: ignore[arg-type]
    assert sampled(noise, x) == pytest.approx((m.mean, m.variance, m.rest), abs=0.02)


def mean_of_the_largest(k: int) -> float:
    """E[max of k standard normal numbers]."""
    return float(quad(lambda z: z * k * norm.pdf(z) * norm.cdf(z) ** (k - 1), -9, 9, limit=200)[0])


@pytest.mark.parametrize("rms", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("k", [4, 64, 256, 65536])
def test_moments_at_real_size_are_those_of_normal_scores(k: int, rms: float) -> None:
    """For many dimensions the score is normal, so that E[n.u] = E[max of k] * 2 s / sqrt(4 s^2 + 2)."""
    expected = mean_of_the_largest(k) * 2 * rms / math.sqrt(4 * rms**2 + 2)
    assert winner_moments(k, 65536, rms).mean == pytest.approx(expected, abs=0.015)


def test_one_candidate_or_any_of_all_is_plain_noise() -> None:
    for k, among in ((1, 1), (16, 16)):
        m = winner_moments(k, 64, 1.0, "euclidean", among)
        assert (m.mean, m.variance, m.rest) == pytest.approx((0, 1, 1), abs=1e-3)


def test_nothing_is_selected() -> None:
    """The winner of 64 in a plane is skewed; the control is Gaussian with the same two moments."""
    x = latent(2, 3.0)
    plain = torch.randn(20_000, 2, generator=seeded(2))
    chosen = nearest_of(x.expand(20_000, -1), 64, generator=seeded(1))
    assert p_values(matched_to(x.expand_as(plain), plain, 64), chosen, x)["distance"] < 1e-8


def test_rows_have_their_own_moments() -> None:
    small, large = latent(64, 0.3), latent(64, 3.0)
    plain = torch.randn(2, 64, generator=seeded(2))
    both = matched_to(torch.stack([small, large]), plain, 16)
    assert torch.allclose(both[0], matched_to(small[None], plain[:1], 16)[0], atol=1e-6)
    assert torch.allclose(both[1], matched_to(large[None], plain[1:], 16)[0], atol=1e-6)


def test_zero_latents_get_shorter_noise_without_direction() -> None:
    plain = torch.randn(3, 64, generator=seeded(2))
    noise = matched_to(torch.zeros(3, 64), plain, 64)
    shrink = noise / plain
    assert torch.allclose(shrink, shrink[0, 0].expand_as(shrink), atol=1e-5)
    assert 0.5 < float(shrink[0, 0]) < 0.95


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 4, 3, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_stage_acts_in_its_window_only(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, generator=seeded(1)).to(dtype)
    plain = torch.randn(shape, generator=seeded(2))
    at = torch.full(shape[:1], 500)
    everywhere = PLUGIN(PLUGIN.Settings(k=16))(NoiseDraw(plain, plain), NoiseContext(x, at, seeded(3)))
    assert everywhere.target is everywhere.mixed
    assert (everywhere.target.shape, everywhere.target.dtype) == (plain.shape, plain.dtype)
    assert torch.equal(everywhere.target, matched_to(x, plain, 16))
    elsewhere = PLUGIN(PLUGIN.Settings.model_validate({"k": 16, "timesteps": [0, 500]}))
    assert torch.equal(elsewhere(NoiseDraw(plain, plain), NoiseContext(x, at, seeded(3))).target, plain)


def test_settings() -> None:
    assert not PLUGIN.active(PLUGIN.Settings(k=1))
    assert PLUGIN.active(PLUGIN.Settings(k=2))
    for wrong in ({"k": -1}, {"k": 2, "among": 3}, {"k": 2, "candidates": "lazy"}):
        with pytest.raises(ValidationError):
            PLUGIN.Settings.model_validate(wrong)
