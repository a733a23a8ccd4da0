"""Rectified flow: the straight path and its ends."""

from __future__ import annotations

import torch

from plugins.objectives.flow import Flow
from trainer.batch import NoiseSchedule

CLEAN = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
TIMESTEPS = torch.tensor([0, 499, 900, 999])


def test_following_the_target_leads_to_noise_and_back_to_the_image() -> None:
    flow = Flow(NoiseSchedule.discrete(torch.linspace(0.99, 0.01, 1000)))
    noisy, target = flow.noisy(CLEAN, NOISE, TIMESTEPS), flow.target(CLEAN, NOISE, TIMESTEPS)
    sigma = flow.signal_and_noise(TIMESTEPS)[1].view(-1, 1, 1, 1)
    torch.testing.assert_close(noisy - sigma * target, CLEAN)
    torch.testing.assert_close(noisy + (1 - sigma) * target, NOISE)


def test_the_last_timestep_is_pure_noise() -> None:
    flow = Flow(NoiseSchedule.discrete(torch.linspace(0.99, 0.01, 1000)))
    assert torch.equal(flow.noisy(CLEAN, NOISE, TIMESTEPS)[-1], NOISE[-1])
    assert [s.tolist()[-1] for s in flow.signal_and_noise(TIMESTEPS)] == [0, 1]


def test_a_flow_of_its_own_has_any_time_between_image_and_noise() -> None:
    flow, times = Flow(NoiseSchedule(1000)), torch.tensor([0.0, 0.25, 499.5, 1000.0])
    assert torch.equal(flow.signal_and_noise(times)[1], times / 1000)
    noisy = flow.noisy(CLEAN, NOISE, times)
    assert torch.equal(noisy[0], CLEAN[0]) and torch.equal(noisy[-1], NOISE[-1])


def test_latents_may_have_any_number_of_dimensions() -> None:
    flow, times = Flow(NoiseSchedule(1000)), torch.tensor([0.0, 250.0, 500.0, 1000.0])
    flat = flow.noisy(CLEAN, NOISE, times)
    assert torch.equal(flow.noisy(CLEAN[:, :, None], NOISE[:, :, None], times)[:, :, 0], flat)
