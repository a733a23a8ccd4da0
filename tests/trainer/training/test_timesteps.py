"""Distributions of timesteps against their textbook laws."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from trainer.randomness import generator
from trainer.training.timesteps import TimestepSampler

COUNT = 20_000


def drawn(**settings: object) -> torch.Tensor:
    return TimestepSampler(**settings).draw(COUNT, generator(0, "t"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "law"),
    [
        ({}, scipy.stats.uniform()),
        ({"distribution": "sigmoid", "std": 0.7}, scipy.stats.norm(0, 0.7)),
        ({"distribution": "logit_normal", "mean": -0.5, "std": 1.3}, scipy.stats.norm(-0.5, 1.3)),
        ({"distribution": "beta", "alpha": 2.0, "beta": 5.0}, scipy.stats.beta(2, 5)),
    ],
)
def test_each_distribution_follows_its_law(settings: dict[str, object], law: scipy.stats.rv_continuous) -> None:
    shares = (drawn(**settings).double().numpy() + 0.5) / 1000  # the middle of each timestep's cell
    if settings.get("distribution") in ("sigmoid", "logit_normal"):
        shares = scipy.special.logit(shares)
    assert scipy.stats.kstest(shares, law.cdf).statistic < 0.015  # 1 % level at 20,000 draws is 0.0115, cells add 0.001


def test_a_table_of_weights_gives_each_slice_its_share() -> None:
    found = drawn(distribution="weights", weights=[1, 0, 3, 1], low=200, high=600)
    counts = torch.bincount((found - 200) // 100, minlength=4) / COUNT
    assert counts.tolist() == pytest.approx([0.2, 0, 0.6, 0.2], abs=0.015)
    inside = (found[(found >= 400) & (found < 500)] - 400).double()
    assert float(inside.mean()) == pytest.approx(49.5, abs=1)


def test_shift_moves_quantiles_as_the_formula_says() -> None:
    quantiles = torch.tensor([0.1005, 0.5005, 0.9005], dtype=torch.float64)
    assert TimestepSampler(shift=3.0).at(quantiles).tolist() == [251, 750, 964]
    assert TimestepSampler().at(quantiles).tolist() == [100, 500, 900]


def test_a_flow_has_all_the_times_between() -> None:
    quantiles = torch.tensor([0.1005, 0.5005, 0.9005], dtype=torch.float64)
    flow = TimestepSampler(shift=3.0, continuous=True)
    shifted = 3 * quantiles / (1 + 2 * quantiles)
    torch.testing.assert_close(flow.at(quantiles), (1000 * shifted).float())
    assert flow.at(quantiles).long().tolist() == TimestepSampler(shift=3.0).at(quantiles).tolist()
    drawn = TimestepSampler(low=100, high=300, continuous=True).draw(2000, generator(0, "t")).double()
    assert scipy.stats.kstest(drawn.numpy(), scipy.stats.uniform(100, 200).cdf).pvalue > 0.01


def test_draws_stay_in_the_range_and_reach_both_ends() -> None:
    for distribution in ("uniform", "beta", "sigmoid"):
        found = drawn(distribution=distribution, low=10, high=20, std=3.0)
        assert (int(found.min()), int(found.max())) == (10, 19)


def test_a_stratified_draw_fills_every_slice_once_and_keeps_the_law() -> None:
    timesteps = TimestepSampler(stratified=True)
    batch = timesteps.draw(50, generator(1, "t"))
    assert sorted((batch // 20).tolist()) == list(range(50))
    assert not torch.equal(batch, batch.sort().values)
    firsts = torch.stack([timesteps.draw(4, generator(seed, "t"))[0] for seed in range(2000)])
    assert scipy.stats.kstest(firsts.double().numpy() / 1000, "uniform").pvalue > 0.01
