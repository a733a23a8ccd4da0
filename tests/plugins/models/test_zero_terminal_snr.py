"""Zero terminal SNR: the schedule against diffusers' own rescaling, the weights computed after it, the sampler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr

from plugins.models.sd import StableDiffusion
from tests.tiny import tiny_sd
from trainer import registry
from trainer.errors import UserError
from trainer.training.losses import Loss
from trainer.training.step import noisiness


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("zero") / "base"
    tiny_sd(folder)
    return str(folder)


def test_the_schedule_is_rescaled_as_diffusers_does_it_and_back(base: str) -> None:
    family = StableDiffusion.load(base, prediction="velocity")
    plain = family.schedule.alphas_cumprod
    family.use_zero_terminal_snr(True)
    betas = 1 - plain / torch.cat([torch.ones(1), plain[:-1]])
    expected = (1 - rescale_zero_terminal_snr(betas.double())).cumprod(0).float()
    torch.testing.assert_close(family.schedule.alphas_cumprod, expected, atol=1e-5, rtol=1e-4)
    assert float(family.schedule.alphas_cumprod[-1]) == 0
    assert float(family.schedule.alphas_cumprod[0]) == pytest.approx(float(plain[0]))
    sampler = family.pipeline().scheduler
    assert (sampler.config.rescale_betas_zero_snr, sampler.config.timestep_spacing) == (True, "trailing")
    family.use_zero_terminal_snr(False)
    assert torch.equal(family.schedule.alphas_cumprod, plain)


def test_loss_weights_are_those_of_the_rescaled_schedule(base: str) -> None:
    """sd-scripts computes them from the schedule before the rescaling."""
    family = StableDiffusion.load(base, prediction="velocity")
    family.use_zero_terminal_snr(True)
    objective = registry.find("objectives", "velocity")(family.schedule)
    at = noisiness(objective, torch.tensor([500, 999]))
    abar = family.schedule.alphas_cumprod[[500, 999]]
    torch.testing.assert_close(at.snr, abar / (1 - abar))
    weights = Loss(weighting="min_snr").timestep_weights(at)
    torch.testing.assert_close(
        weights, (abar / (1 - abar)).clamp(max=5) / (abar / (1 - abar) + 1), atol=1e-7, rtol=1e-5
    )


def test_epsilon_cannot_be_learned_from_pure_noise(base: str) -> None:
    with pytest.raises(UserError, match=r"model\.zero_terminal_snr"):
        StableDiffusion.load(base, prediction="epsilon").use_zero_terminal_snr(True)
