"""The one line that is said before a run whose pairing shifts this data's signal-to-noise ratio strongly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from pydantic import BaseModel

from trainer import registry
from trainer.data.dataset import Dataset
from trainer.data.encode import Stored, Variant
from trainer.protocols import NoiseStage
from trainer.reports.noise_advice import REFERENCE, STRONG, acts, as_strong
from trainer.reports.noise_effect import Effect, Latents, acting_timesteps, effect, paired_together
from trainer.reports.noise_sample import read, sample
from trainer.reports.noise_shift import REFERENCE_PULL, Schedule

ROUGH_NUMBERS = 2**22  # drawn: well below a second
TIMESTEPS = 1000  # where the schedule is not known
CHANNELS = 4  # of Stable Diffusion's latents, where nothing is encoded yet

Stages = Mapping[str, BaseModel]  # the settings of every stage that is on, by plugin name


def warnings(
    stages: Stages,
    dataset: Dataset,
    stored: Callable[[Variant], Stored],
    *,
    accumulation: int = 1,
    schedule: Schedule | None = None,
) -> list[str]:
    """From latents that lie in a cache."""
    if not _pairs(stages):
        return []
    one = sample(dataset, 1, seed=0)
    count = _enough(math.prod(read(one, stored).shape[1:]))
    latents = Latents.of(read(sample(dataset, count, seed=0), stored))
    return _lines(stages, dataset, latents, accumulation, schedule)


def warnings_before_encoding(stages: Stages, dataset: Dataset, *, accumulation: int = 1) -> list[str]:
    """The same for independent latents of variance 1, which Stable Diffusion's nearly are; says so."""
    if not _pairs(stages) or not dataset.items:
        return []
    width, height = sample(dataset, 1, seed=0).size
    cell = dataset.rendering.cell
    latents = assumed((CHANNELS, max(1, height // cell), max(1, width // cell)))
    found = _lines(stages, dataset, latents, accumulation, None)
    return [f"{line} (Before encoding: latents of 1/{cell} of the pixels are assumed.)" for line in found]


def assumed(shape: tuple[int, int, int]) -> Latents:
    """Stand-ins for latents: independent numbers of variance 1."""
    count = _enough(math.prod(shape))
    return Latents.of(torch.randn((count, *shape), generator=torch.Generator().manual_seed(0)))


def warning(
    latents: Latents, name: str, settings: BaseModel, *, images: int, batch_size: int, schedule: Schedule | None = None
) -> str | None:
    """One line when a pairing stage shifts the signal-to-noise ratio of this data strongly, or can tell its images
    apart by their noise; None when there is nothing to say.

    latents: some of the data's; images: how many there are in all; batch_size: what a pool named by the batch holds;
    schedule: adds what a timestep acts as.
    """
    plugin = registry.find("noise", name)
    if plugin.phase != "pair":
        return None
    found = _roughly(plugin(settings), latents, batch_size, TIMESTEPS if schedule is None else len(schedule))
    label = f"noise.{name} ({plugin.headline} = {getattr(settings, plugin.headline)})"
    if found.pull > STRONG * REFERENCE_PULL:
        t = TIMESTEPS // 2 if schedule is None else len(schedule) // 2
        shift = "" if schedule is None else f" (t = {t} trains as t = {acts(schedule, found, t):.0f})"
        shape = "x".join(map(str, latents.shape))
        return (
            f"note: {label} acts {found.pull / REFERENCE_PULL:.1f} times as strongly on these latents of {shape} as "
            f"{REFERENCE}{shift}; {_instead(plugin, settings, latents, batch_size)}. `noise CONFIG` shows more."
        )
    information = getattr(plugin, "information", None)
    nats = 0.0 if information is None else information(settings, paired_together(plugin(settings), batch_size))
    if images > 0 and nats > 0 and nats >= math.log(images):
        return (
            f"note: {label} puts up to {nats:.1f} nats about an image into its noise; ln {images} = "
            f"{math.log(images):.1f} tell the {images} images of this set apart. A smaller value lowers the risk of "
            "memorising; `noise CONFIG` shows more."
        )
    return None


def _pairs(stages: Stages) -> bool:
    return any(registry.find("noise", name).phase == "pair" for name in stages)


def _lines(
    stages: Stages, dataset: Dataset, latents: Latents, accumulation: int, schedule: Schedule | None
) -> list[str]:
    batch = max(dataset.batch_size(item) for item in dataset.items) * accumulation
    images = len(dataset.items)
    found = [
        warning(latents, name, settings, images=images, batch_size=batch, schedule=schedule)
        for name, settings in stages.items()
    ]
    return [line for line in found if line is not None]


def _enough(dimension: int) -> int:
    """How many latents tell the strength roughly."""
    return min(128, max(16, ROUGH_NUMBERS // dimension))


def _roughly(stage: NoiseStage, latents: Latents, batch_size: int, timesteps: int = TIMESTEPS) -> Effect:
    """Measured where the stage acts, with as large a pool as the latents allow."""
    acting = acting_timesteps(stage, timesteps, latents.x.device) or [0]
    together = min(len(latents), paired_together(stage, batch_size))
    draws = min(1024, max(64, ROUGH_NUMBERS // latents.dimension))
    return effect(stage, latents, draws=draws, timestep=acting[len(acting) // 2], together=together)


def _instead(plugin: type[NoiseStage], settings: BaseModel, latents: Latents, batch_size: int) -> str:
    """Which value would be as strong as the reference."""
    measured: list[tuple[int, float]] = []
    for value in getattr(plugin, "sweep", ()):
        other = plugin(settings.model_copy(update={plugin.headline: value}))
        if paired_together(other, batch_size) > len(latents):
            break
        measured.append((value, _roughly(other, latents, batch_size).pull))
        if measured[-1][1] >= REFERENCE_PULL:
            break
    return f"as strong as that would be: {as_strong(plugin.headline, measured)}"
