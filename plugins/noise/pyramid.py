"""Pyramid (multi-resolution) noise: adds coarser and coarser noise, so that large shapes are learned from noise too.

J. Whitaker, "Multi-Resolution Noise for Diffusion Model Training" (2023), as in kohya's sd-scripts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ._gradients import without_gradients
from ._settings import StageSettings, setting
from ._stage import Stage

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from trainer.batch import NoiseContext, NoiseDraw


def sizes(height: int, width: int, ratios: list[float]) -> list[tuple[int, int]]:
    """Grids of the levels: level i is ratios[i]^i times smaller, and the first with a side of 1 is the last."""
    found = []
    for level, ratio in enumerate(ratios):
        found.append((max(1, int(height / ratio**level)), max(1, int(width / ratio**level))))
        if 1 in found[-1]:
            break
    return found


@without_gradients
def pyramid_like(noise: Tensor, *, iterations: int, discount: float, generator: Generator) -> Tensor:
    """The noise plus one noise per level, enlarged bilinearly and weighted by discount^level, divided by its deviation.

    noise: (B, ..., h, w). Level 0 has the full size; the ratio of each level is drawn between 2 and 4. The deviation is
    that of the whole tensor, so that the result's variance is 1 over the batch, as in kohya's sd-scripts.
    """
    from torch import add
    from torch.nn.functional import interpolate

    from ._draws import host_random, normal

    height, width = noise.shape[-2:] if noise.ndim > 2 else (1, noise.shape[-1])
    planes = noise.reshape(len(noise), -1, height, width)  # (B, C, h, w): other dimensions count as channels
    ratios = [2 + 2 * share for share in host_random(iterations, generator)]
    for level, size in enumerate(sizes(height, width, ratios)):
        coarse = normal((*planes.shape[:2], *size), generator, noise.device, noise.dtype)
        enlarged = interpolate(coarse, size=(height, width), mode="bilinear")
        planes = add(planes, enlarged, alpha=discount**level)
    return (planes / planes.std()).reshape(noise.shape)


class PyramidSettings(StageSettings):
    iterations: int = setting(
        0,
        "Levels of coarser noise, the first at full size; 0 = off. Usual: 6 to 10.",
        basic=True,
        ge=0,
        le=32,
        unit="levels",
    )
    discount: float = setting(
        0.3,
        "Weight of each level relative to the one before; usual: 0.1 to 0.3, up to 0.8 for many images.",
        gt=0,
        le=1,
    )


class Pyramid(Stage):
    """Pyramid (multi-resolution) noise: adds coarser and coarser noise, so that large shapes are learned too.

    A property of the noise itself: the target has it too.
    """

    Settings = PyramidSettings
    headline = "iterations"
    phase = "shape"
    example: ClassVar[dict[str, object]] = {"iterations": 4}

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

    def __call__(self, draw: NoiseDraw, context: NoiseContext) -> NoiseDraw:
        """Reshapes target and mixed noise; see trainer.protocols.NoiseStage."""
        s = self.settings
        noise = pyramid_like(draw.target, iterations=s.iterations, discount=s.discount, generator=context.generator)
        return replace(draw, target=noise, mixed=noise)


PLUGIN = Pyramid
