"""Predict the noise (epsilon), as SD 1.x, SD 2.x base and SDXL do."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from plugins.objectives._schedule import DiscreteSchedule

FAINTEST = 1e-3  # share of the image in what is still divided by it


class Epsilon(DiscreteSchedule):
    """The target is the noise itself: Ho et al. 2020, arXiv 2006.11239, equation 14."""

    aliases: ClassVar[tuple[str, ...]] = ("eps", "noise")
    diffusers_name: ClassVar[str] = "epsilon"
    modelspec_name: ClassVar[str] = "epsilon"
    predicts_noise: ClassVar[bool] = True

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noise, (B, ...)."""
        return noise

    def separated(self, noisy: Tensor, target: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(clean, noise), each (B, ...). Where nothing is left of the image (zero terminal SNR) it cannot be found."""
        alpha, sigma = self._scales(noisy, timesteps)
        return (noisy - sigma * target) / alpha.clamp(min=FAINTEST), target


PLUGIN = Epsilon
