"""Stochastic rounding to bfloat16: neighbours only, and the right mean."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.optim.rounding import stochastic_round


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def neighbours(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The bfloat16 numbers around each value, towards zero and away from it: by cutting bits, and one more."""
    inner = (values.view(torch.int32) & -65536).view(torch.float32)
    outer = torch.where(inner == values, inner, ((values.view(torch.int32) & -65536) + 65536).view(torch.float32))
    return inner, outer


@given(
    st.lists(st.floats(width=32, allow_nan=False, min_value=-(2.0**126), max_value=2.0**126), min_size=1),
    st.integers(0, 99),
)
def test_every_value_goes_to_a_neighbour(numbers: list[float], seed: int) -> None:
    values = torch.tensor(numbers, dtype=torch.float32)
    rounded = stochastic_round(values, stream(seed)).float()
    inner, outer = neighbours(values)
    assert bool(((rounded == inner) | (rounded == outer)).all())


def test_what_bfloat16_holds_stays_and_what_is_no_number_too() -> None:
    exact = torch.randn(10_000, generator=stream()).bfloat16()
    assert torch.equal(stochastic_round(exact.float(), stream(1)), exact)
    odd = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0, -0.0])
    found = stochastic_round(odd, stream(1))
    assert torch.equal(found[:2].float(), odd[:2])
    assert bool(found[2].isnan())
    assert found[3:].tolist() == [0, 0]


def test_the_chance_of_each_neighbour_makes_the_mean_exact() -> None:
    """Over n draws the share of upward roundings is within five standard errors of the value's place between them."""
    n = 40_000
    for value in (1.0009765625, -3.14159, 1e-5, 0.1, 77.77, -1e-20):
        values = torch.full((n,), value)
        inner, outer = neighbours(values[:1])
        share = float((values[0] - inner[0]) / (outer[0] - inner[0]))
        found = float((stochastic_round(values, stream(5)).float() == outer).float().mean())
        assert abs(found - share) <= 5 * (share * (1 - share) / n) ** 0.5 + 1e-9, value


def test_updates_far_below_the_spacing_are_kept_on_the_average() -> None:
    """1 + 1000 * 1e-5: rounded to the nearest, bfloat16 would stay at 1 for ever."""
    weight = torch.ones(20_000, dtype=torch.bfloat16)
    source = stream(3)
    for _ in range(1000):
        weight = stochastic_round(weight.float() + 1e-5, source)
    assert float(weight.float().mean()) == pytest.approx(1.01, abs=3e-4)
    assert torch.equal(torch.ones(1, dtype=torch.bfloat16) + 1e-5, torch.ones(1, dtype=torch.bfloat16))


def test_the_same_stream_gives_the_same_bits() -> None:
    values = torch.randn(1000, generator=stream())
    assert torch.equal(stochastic_round(values, stream(4)), stochastic_round(values, stream(4)))
    assert not torch.equal(stochastic_round(values, stream(4)), stochastic_round(values, stream(5)))
