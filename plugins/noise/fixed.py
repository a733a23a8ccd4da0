"""Fixed noise: an image meets the same noise, or one of a few, every time that it trains.

ai-toolkit's `force_consistent_noise` (its noise comes from a hash of the file's path; here from folder and file name,
size, view and the run's seed). Nothing is stored: the noise is drawn anew each time from the image's own seed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ._settings import ALL_TIMESTEPS, WINDOW_HELP, StageSettings, Window, inside, setting
from ._stage import Stage

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.batch import NoiseContext, NoiseDraw

NoisesSetting = Literal["own"] | Annotated[int, Field(ge=0, le=65536)]


def fixed_noise(shape: tuple[int, ...], image: str, seed: int, noises: int = 0) -> Tensor:
    """The noise of an image, N(0, I) of the given shape, float32 on the CPU: the same on every device.

    image: what tells it from others, e.g. its path and crop; noises: how many different ones there are for all images
    of a shape, 0 = as many as images.
    """
    from ._keyed import noise_of, number

    which = f"image {image}" if not noises else f"noise {number(f'{seed}/{image}') % noises}"
    return noise_of(shape, number(f"{seed}/{which}") >> 1)


class FixedSettings(StageSettings):
    noises: NoisesSetting = setting(
        0,
        'How many noises there are. "own": each image (and its mirror image) keeps one of its own; a number: each '
        "keeps one of so many, which all share. 0 = off.",
        kohya=("force_consistent_noise",),
        basic=True,
    )
    timesteps: Window = setting(ALL_TIMESTEPS, WINDOW_HELP)


class Fixed(Stage):
    """Fixed noise: an image meets the same noise, or one of a few, every time that it trains.

    For experiments. The network can learn to read the image off its noise, and never meets most of the noise that
    images are drawn from.
    """

    Settings = FixedSettings
    headline = "noises"
    phase = "pair"
    example: ClassVar[dict[str, object]] = {"noises": "own"}
    repeats = True

    @classmethod
    def active(cls, settings: FixedSettings) -> bool:
        return settings.noises != 0

    @classmethod
    def information(cls, settings: FixedSettings, together: int) -> float:
        """Nats about the image in its noise, at most: which noise it has; a noise of its own tells all images apart."""
        return math.inf if settings.noises == "own" else math.log(max(1, int(settings.noises)))

    def __call__(self, draw: NoiseDraw, context: NoiseContext) -> NoiseDraw:
        """Puts each image's noise in the place of the plain draw; see trainer.protocols.NoiseStage.

        Raises ValueError when the images are not named.
        """
        from ._draws import where_it_acts
        from ._keyed import stacked

        plain, s = draw.target, self.settings
        if len(context.images) != len(plain):
            raise ValueError(f"fixed noise needs the key of every image, found {len(context.images)} for {len(plain)}")
        count = 0 if s.noises == "own" else int(s.noises)
        made = [fixed_noise(tuple(plain.shape[1:]), one, context.seed, count) for one in context.images]
        noise = where_it_acts(inside(s.timesteps, context.timesteps), stacked(made, plain), plain)
        return replace(draw, target=noise, mixed=noise)


PLUGIN = Fixed
