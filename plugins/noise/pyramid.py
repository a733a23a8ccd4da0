"""Pyramid (multi-resolution) noise: adds coarser and coarser noise, so that large shapes are learned from noise too.

J. Whitaker, "Multi-Resolution Noise for Diffusion Model Training" (2023), as in kohya's sd-scripts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Generator, Tensor

from plugins.noise._draws import host_random, normal
from plugins.noise._settings import StageSettings, setting

if TYPE_CHECKING:
    from trainer.batch import NoiseDraw
    from trainer.protocols import Phase


def sizes(height: int, width: int, ratios: list[float]) -> list[tuple[int, int]]:
    """Grids of the levels: level i is ratios[i]^i times smaller, and the first with a side of 1 is the last."""
    found = []
    for level, ratio in enumerate(ratios):
        found.append((max(1, int(height / ratio**level)), max(1, int(width / ratio**level))))
        if 1 in found[-1]:
            break
    return found


@torch.no_grad()
def pyramid_like(noise: Tensor, *, iterations: int, discount: float, generator: Generator) -> Tensor:
    """The noise plus one noise per level, enlarged bilinearly and weighted by discount^level, divided by its deviation.

    noise: (B, ..., h, w). Level 0 has the full size; the ratio of each level is drawn between 2 and 4. The deviation is
    that of the whole tensor, so that the result's variance is 1 over the batch, as in kohya's sd-scripts.
    """
    height, width = noise.shape[-2:] if noise.ndim > 2 else (1, noise.shape[-1])
    planes = noise.reshape(len(noise), -1, height, width).clone()  # (B, C, h, w): other dimensions count as channels
    ratios = [2 + 2 * share for share in host_random(iterations, generator)]
    for level, size in enumerate(sizes(height, width, ratios)):
        coarse = normal((*planes.shape[:2], *size), generator, noise.device, noise.dtype)
        enlarged = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
        planes.add_(enlarged, alpha=discount**level)
    return (planes / planes.std()).reshape(noise.shape)


class PyramidSettings(StageSettings):
    iterations: int = setting(
        0,
        "Levels of coarser noise, the first at full size; 0 = off. Usual: 6 to 10.",
        kohya=("multires_noise_iterations", "multires_noise", "pyramid_noise"),
        basic=True,
        ge=0,
        le=32,
        unit="levels",
    )
    discount: float = setting(
        0.3,
        "Weight of each level relative to the one before; usual: 0.1 to 0.3, up to 0.8 for many images.",
        kohya=("multires_noise_discount",),
        gt=0,
        le=1,
    )


class Pyramid:
    """Pyramid (multi-resolution) noise: adds coarser and coarser noise, so that large shapes are learned too.

    A property of the noise itself: the target has it too.
    """

    Settings: ClassVar[type[PyramidSettings]] = PyramidSettings
    headline: ClassVar[str] = "iterations"
    phase: ClassVar[Phase] = "shape"

    def __init__(self, settings: PyramidSettings) -> None:
        self.settings = settings

    @classmethod
    def active(cls, settings: PyramidSettings) -> bool:
        return settings.iterations > 0

    @classmethod
    def metadata(cls, settings: PyramidSettings) -> dict[str, object]:
        """kohya's keys; None = off."""
        return {
            "ss_multires_noise_iterations": settings.iterations or None,
            "ss_multires_noise_discount": settings.discount,
        }

    def __call__(self, draw: NoiseDraw, clean: Tensor, timesteps: Tensor, generator: Generator) -> NoiseDraw:
        """Reshapes target and mixed noise; see trainer.protocols.NoiseStage."""
        s = self.settings
        noise = pyramid_like(draw.target, iterations=s.iterations, discount=s.discount, generator=generator)
        return replace(draw, target=noise, mixed=noise)


PLUGIN = Pyramid
