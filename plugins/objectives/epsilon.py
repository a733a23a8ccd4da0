"""Predict the noise (epsilon), as SD 1.x, SD 2.x base and SDXL do."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from plugins.objectives._schedule import DiscreteSchedule


class Epsilon(DiscreteSchedule):
    """The target is the noise itself: Ho et al. 2020, arXiv 2006.11239, equation 14."""

    aliases: ClassVar[tuple[str, ...]] = ("eps", "noise")
    diffusers_name: ClassVar[str] = "epsilon"
    modelspec_name: ClassVar[str] = "epsilon"
    predicts_noise: ClassVar[bool] = True

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noise, (B, ...)."""
        return noise


PLUGIN = Epsilon
