"""Objectives: identities, and agreement with diffusers' scheduler as an independent reference."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from plugins.objectives.epsilon import Epsilon
from plugins.objectives.velocity import Velocity
from trainer import registry
from trainer.batch import NoiseSchedule
from trainer.errors import UserError

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TIMESTEPS = torch.tensor([0, 1, 250, 499, 998, 999])


def scheduler(zero_snr: bool) -> DDPMScheduler:
    return DDPMScheduler(**SCHEDULE, rescale_betas_zero_snr=zero_snr)


def draws(*trailing: int) -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(7)
    shape = (len(TIMESTEPS), *trailing)
    return torch.randn(shape, generator=stream), torch.randn(shape, generator=stream)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_mixing_and_targets_agree_with_diffusers(zero_snr: bool) -> None:
    reference = scheduler(zero_snr)
    clean, noise = draws(4, 8, 8)
    velocity = Velocity(NoiseSchedule.discrete(reference.alphas_cumprod))
    close = {"atol": 2e-6, "rtol": 1e-5}
    torch.testing.assert_close(
        velocity.noisy(clean, noise, TIMESTEPS), reference.add_noise(clean, noise, TIMESTEPS), **close
    )
    torch.testing.assert_close(
        velocity.target(clean, noise, TIMESTEPS), reference.get_velocity(clean, noise, TIMESTEPS), **close
    )


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("trailing", [(), (5,), (4, 8, 8), (4, 2, 8, 8)])
def test_velocity_gives_back_clean_and_noise(zero_snr: bool, trailing: tuple[int, ...]) -> None:
    velocity = Velocity(NoiseSchedule.discrete(scheduler(zero_snr).alphas_cumprod))
    clean, noise = draws(*trailing)
    noisy, target = velocity.noisy(clean, noise, TIMESTEPS), velocity.target(clean, noise, TIMESTEPS)
    torch.testing.assert_close(velocity.clean(noisy, target, TIMESTEPS), clean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(velocity.noise(noisy, target, TIMESTEPS), noise, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", registry.names("objectives"))
def test_every_objective_gives_back_clean_and_noise_of_its_own_target(name: str) -> None:
    objective = registry.find("objectives", name)(NoiseSchedule.discrete(scheduler(False).alphas_cumprod))
    clean, noise = draws(4, 8, 8)
    noisy, target = objective.noisy(clean, noise, TIMESTEPS), objective.target(clean, noise, TIMESTEPS)
    found = objective.separated(noisy, target, TIMESTEPS)
    torch.testing.assert_close(found[0], clean, atol=1e-4, rtol=1e-4)  # float32, divided by alpha = 0.068 at the last
    torch.testing.assert_close(found[1], noise, atol=1e-4, rtol=1e-4)


def test_epsilon_aims_at_the_target_noise() -> None:
    clean, noise = draws(4, 8, 8)
    assert torch.equal(
        Epsilon(NoiseSchedule.discrete(scheduler(False).alphas_cumprod)).target(clean, noise, TIMESTEPS), noise
    )


def test_the_noisy_latent_of_unit_latents_has_unit_variance() -> None:
    epsilon = Epsilon(NoiseSchedule.discrete(scheduler(False).alphas_cumprod))
    stream = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(6, 200_000, generator=stream), torch.randn(6, 200_000, generator=stream)
    variance = epsilon.noisy(clean, noise, TIMESTEPS).var(dim=1)
    torch.testing.assert_close(variance, torch.ones(6), atol=0.02, rtol=0)


def test_scales_are_a_point_on_the_unit_circle_and_pure_noise_at_zero_snr() -> None:
    alpha, sigma = Velocity(NoiseSchedule.discrete(scheduler(True).alphas_cumprod)).signal_and_noise(TIMESTEPS)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(6))
    assert (alpha[-1], sigma[-1]) == (0, 1)


@pytest.mark.parametrize(("name", "plugin"), [("epsilon", Epsilon), ("v", Velocity), ("v_prediction", Velocity)])
def test_the_registry_finds_them_by_name_and_alias(name: str, plugin: type) -> None:
    assert registry.find("objectives", name) is plugin


@pytest.mark.parametrize("kind", [Epsilon, Velocity])
def test_what_needs_a_discrete_schedule_refuses_a_flow(kind: type) -> None:
    with pytest.raises(UserError, match=r"model\.prediction: this base is a flow"):
        kind(NoiseSchedule(1000))
