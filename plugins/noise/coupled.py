"""Coupled noise: each image keeps its noises, and the images of a batch exchange theirs for nearer ones.

LOOM-CFM (arXiv 2603.15279): a fixed set of noises, dealt out at first; whenever images meet in a batch, the noises that
they bring are assigned to them anew, and remembered. So assignments get better over the epochs than any one batch could
make them. Only each noise's number is kept, and the noise drawn from it again.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from ._gradients import without_gradients
from ._settings import ALL_TIMESTEPS, WINDOW_HELP, StageSettings, Window, inside, setting
from ._stage import Pool, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Generator

    from trainer.batch import NoiseContext, NoiseDraw

Place = tuple[str, int]  # an image, which of its noises


class CoupledSettings(StageSettings):
    noises: int = setting(
        0,
        "How many noises each image keeps, one of which it meets each time; 0 = off. More keep the network from "
        "learning the few that there are. Each costs 8 bytes per image in a checkpoint.",
        basic=True,
        ge=0,
        le=1024,
    )
    timesteps: Window = setting(ALL_TIMESTEPS, WINDOW_HELP)


class Coupled(Stage):
    """Coupled noise: each image keeps its noises, and the images of a batch exchange theirs for nearer ones.

    The sum of the distances between images and the noises that they keep never grows. LOOM-CFM, arXiv 2603.15279.
    """

    Settings = CoupledSettings
    headline = "noises"
    phase = "pair"
    example: ClassVar[dict[str, object]] = {"noises": 2}
    repeats = True
    remembers = True
    pool: Pool = "batch"

    def __init__(self, settings: CoupledSettings) -> None:
        super().__init__(settings)
        self._kept: dict[str, list[int]] = {}  # image -> the numbers of its noises

    @classmethod
    def active(cls, settings: CoupledSettings) -> bool:
        return settings.noises > 0

    @classmethod
    def remark(cls, settings: CoupledSettings, batch_size: int, accumulation: int) -> str | None:
        """A warning when no two images ever meet."""
        if batch_size > 1:
            return None
        return "with one sample at a time no images meet to exchange their noises; raise batch_size, or use noise.fixed"

    @classmethod
    def information(cls, settings: CoupledSettings, together: int) -> float:
        """Nats about the image in its noise, at most: a noise of its own tells all images apart."""
        return math.inf

    @without_gradients
    def __call__(self, draw: NoiseDraw, context: NoiseContext) -> NoiseDraw:
        """Assigns the noises that a batch's images brought, and remembers; see trainer.protocols.NoiseStage.

        Outside its timesteps a sample gets the plain draw, and its image takes part in the exchange all the same.
        Waits for the device: the assignment is solved on the CPU. Raises ValueError when the images are not named.
        """
        import torch

        from ._draws import rows, sent, where_it_acts
        from ._keyed import noise_of, stacked
        from ._pairing import distances, solve

        plain = draw.target
        if len(context.images) != len(plain):
            raise ValueError(f"coupled noise needs the key of every image, found {len(context.images)}")
        met = self._meeting(context.images, context.generator)
        places = list(dict.fromkeys(met))  # an image that is there twice may bring the same noise twice
        numbers = [self._numbers(image, context.seed)[which] for image, which in places]
        brought = stacked([noise_of(tuple(plain.shape[1:]), number) for number in numbers], plain)
        first = sent(torch.tensor([met.index(place) for place in places]), plain.device)
        order = solve(distances(rows(context.clean[first]), rows(brought)))
        for (image, which), taken in zip(places, order.tolist(), strict=True):
            self._kept[image][which] = numbers[taken]
        own = torch.tensor([places.index(place) for place in met])
        noise = brought[sent(order[own], plain.device)]
        noise = where_it_acts(inside(self.settings.timesteps, context.timesteps), noise, plain)
        return replace(draw, target=noise, mixed=noise)

    def _meeting(self, images: Sequence[str], generator: Generator) -> list[Place]:
        """Which of its noises each image brings."""
        from ._draws import host_random

        count = self.settings.noises
        return [(one, int(u * count)) for one, u in zip(images, host_random(len(images), generator), strict=True)]

    def _numbers(self, image: str, seed: int) -> list[int]:
        """Of the noises of an image; dealt out when it is met for the first time."""
        from ._keyed import number

        if image not in self._kept:
            self._kept[image] = [number(f"{seed}/{image}/{which}") >> 1 for which in range(self.settings.noises)]
        return self._kept[image]

    def state_dict(self) -> dict[str, Any]:
        """The images, and (I, noises) int64 numbers."""
        import torch

        return {"images": list(self._kept), "noises": torch.tensor(list(self._kept.values()), dtype=torch.int64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._kept = dict(zip(state["images"], state["noises"].tolist(), strict=True))


PLUGIN = Coupled
