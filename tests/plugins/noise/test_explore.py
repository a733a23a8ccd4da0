"""Explorative modelling: the network's own loss chooses, and nothing but the choice changes the noise's law."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest
from torch import Tensor

from plugins.noise.explore import PLUGIN, explored, nth_information
from plugins.noise.oversampling import nearest_of
from tests.plugins.noise.laws import assert_same_law, seeded
from trainer.batch import NoiseContext, NoiseDraw

X = torch.linspace(0.5, 1.5, 24)


def far(noise: Tensor) -> Tensor:
    """A loss that is the distance to a latent: then exploring is oversampling."""
    return (noise - X).norm(dim=1)


def test_a_loss_that_is_the_distance_gives_the_law_of_oversampling() -> None:
    plain = torch.randn(4000, 24, generator=seeded(1))
    noise = explored(plain, 8, far, generator=seeded(2))
    assert_same_law(noise, nearest_of(X.expand(4000, 24), 8, generator=seeded(3)), X)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_chosen_one_has_that_rank(rank: int) -> None:
    plain = torch.randn(500, 24, generator=seeded(1))
    stream = seeded(2)
    candidates = torch.stack([plain, *(torch.randn(plain.shape, generator=stream) for _ in range(3))])
    ranked = torch.stack([far(one) for one in candidates]).argsort(dim=0)
    expected = candidates[ranked[rank - 1], torch.arange(500)]
    assert torch.equal(explored(plain, 4, far, generator=seeded(2), rank=rank), expected)


def test_a_loss_that_knows_nothing_of_the_noise_leaves_it_plain() -> None:
    stream = seeded(3)
    noise = explored(
        torch.randn(1000, 24, generator=seeded(1)),
        4,
        lambda n: torch.rand(len(n), generator=stream),
        generator=seeded(2),
    )
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3


def test_the_network_is_asked_k_times() -> None:
    asked: list[int] = []

    def losses(noise: Tensor) -> Tensor:
        asked.append(len(noise))
        return far(noise)

    explored(torch.zeros(3, 24), 5, losses, generator=seeded(1))
    assert asked == [3] * 5


@pytest.mark.parametrize(("k", "rank"), [(2, 1), (8, 1), (8, 3), (8, 8)])
def test_information_is_that_of_an_order_statistic(k: int, rank: int) -> None:
    u = torch.linspace(0, 1, 400_001, dtype=torch.float64)
    f = k * math.comb(k - 1, rank - 1) * u ** (rank - 1) * (1 - u) ** (k - rank)
    assert nth_information(k, rank) == pytest.approx(float(torch.trapezoid(torch.xlogy(f, f), u)), abs=1e-6)
    if rank == 1:
        assert nth_information(k, 1) == pytest.approx(math.log(k) - 1 + 1 / k)


def test_timesteps_outside_the_window_and_missing_losses() -> None:
    plain = torch.randn(6, 24, generator=seeded(1))
    stage = PLUGIN(PLUGIN.Settings.model_validate({"k": 16, "timesteps": [200, 800]}))
    context = NoiseContext(plain, torch.tensor([0, 199, 200, 799, 800, 999]), seeded(2), losses=far)
    noise = stage(NoiseDraw(plain, plain), context).target
    assert [torch.equal(a, b) for a, b in zip(noise, plain, strict=True)] == [True, True, False, False, True, True]
    with pytest.raises(ValueError, match="losses"):
        stage(NoiseDraw(plain, plain), NoiseContext(plain, context.timesteps, seeded(2)))


def test_a_rank_beyond_k_is_refused() -> None:
    with pytest.raises(ValidationError, match="more than the k = 2"):
        PLUGIN.Settings(k=2, rank=3)
    with pytest.raises(ValueError, match=r"1\.\.k"):
        explored(torch.zeros(1, 24), 2, far, generator=seeded(1), rank=3)
