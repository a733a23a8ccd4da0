"""Predict the velocity (v), as SD 2.x at 768 pixels and v-prediction fine-tunes of SDXL do."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from plugins.objectives._schedule import DiscreteSchedule


class Velocity(DiscreteSchedule):
    """The target is v = alpha * noise - sigma * clean: Salimans and Ho 2022, arXiv 2202.00512, appendix D."""

    aliases: ClassVar[tuple[str, ...]] = ("v", "v_prediction")
    diffusers_name: ClassVar[str] = "v_prediction"
    modelspec_name: ClassVar[str] = "v"
    predicts_noise: ClassVar[bool] = False

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """v_t, of the shape of `clean` (B, ...)."""
        alpha, sigma = self._scales(clean, timesteps)
        return alpha * noise - sigma * clean

    def clean(self, noisy: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latents that x_t and v_t stand for: alpha * x_t - sigma * v_t."""
        alpha, sigma = self._scales(noisy, timesteps)
        return alpha * noisy - sigma * velocity

    def noise(self, noisy: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
        """The noise that x_t and v_t stand for: sigma * x_t + alpha * v_t."""
        alpha, sigma = self._scales(noisy, timesteps)
        return sigma * noisy + alpha * velocity

    def separated(self, noisy: Tensor, target: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(clean, noise), each (B, ...)."""
        return self.clean(noisy, target, timesteps), self.noise(noisy, target, timesteps)


PLUGIN = Velocity
