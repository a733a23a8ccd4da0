"""The one line that is said before a run whose pairing shifts this data's signal-to-noise ratio strongly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from pydantic import BaseModel

from trainer import registry
from trainer.data.cache.encode import Stored, Variant
from trainer.data.dataset import Dataset
from trainer.protocols import NoiseStage
from trainer.reports.noise.advice import REFERENCE, STRONG, acts, as_strong
from trainer.reports.noise.effect import Effect, FlatLatents, acting_timesteps, effect, paired_together
from trainer.reports.noise.sample import read, sample
from trainer.reports.noise.shift import REFERENCE_PULL, SignalSchedule
from trainer.reports.noise.sweep import swept

ASSUMED = (
    "(Before encoding: independent numbers of variance 1, which the VAE's scale aims at, stand for the latents; "
    "`train` and `noise` measure yours.)"
)
ROUGH_NUMBERS = 2**22  # drawn: well below a second
TIMESTEPS = 1000  # where the schedule is not known

Stages = Mapping[str, BaseModel]  # the settings of every stage that is on, by plugin name


def warnings(
    stages: Stages,
    dataset: Dataset,
    stored: Callable[[Variant], Stored],
    *,
    accumulation: int = 1,
    schedule: SignalSchedule | None = None,
) -> list[str]:
    """From latents that lie in a cache."""
    if not _pairs(stages):
        return []
    one = sample(dataset, 1, seed=0)
    count = _enough(math.prod(read(one, stored).shape[1:]))
    chosen = sample(dataset, count, seed=0)
    latents = FlatLatents.of(read(chosen, stored), chosen.captions)
    return _lines(stages, dataset, latents, accumulation, schedule)


def warnings_before_encoding(
    stages: Stages, dataset: Dataset, channels: int, *, accumulation: int = 1, schedule: SignalSchedule | None = None
) -> list[str]:
    """The same for independent latents of variance 1, which Stable Diffusion's nearly are; says so. channels: of the
    base's latents, as the dataset was scanned for the size of its cells."""
    if not _pairs(stages) or not dataset.items:
        return []
    width, height = sample(dataset, 1, seed=0).size
    cell = dataset.rendering.cell
    latents = assumed((channels, max(1, height // cell), max(1, width // cell)))
    found = _lines(stages, dataset, latents, accumulation, schedule)
    return [f"{line} {ASSUMED}" for line in found]


def assumed(shape: tuple[int, int, int]) -> FlatLatents:
    """Stand-ins for latents: independent numbers of variance 1."""
    count = _enough(math.prod(shape))
    return FlatLatents.of(torch.randn((count, *shape), generator=torch.Generator().manual_seed(0)))


def warning(
    latents: FlatLatents,
    name: str,
    settings: BaseModel,
    *,
    images: int,
    batch_size: int,
    schedule: SignalSchedule | None = None,
) -> str | None:
    """One line when a pairing stage shifts the signal-to-noise ratio of this data strongly, or can tell its images
    apart by their noise; None when there is nothing to say.

    latents: some of the data's; images: how many there are in all; batch_size: what a pool named by the batch holds;
    schedule: adds what a timestep acts as.
    """
    plugin = registry.find("noise", name)
    if plugin.phase != "pair":
        return None
    if plugin.network:
        return _telling(name, settings, images=images, batch_size=batch_size)
    found = _roughly(plugin(settings), latents, batch_size, TIMESTEPS if schedule is None else len(schedule))
    label = f"noise.{name} ({plugin.headline} = {getattr(settings, plugin.headline)})"
    if found.pull > STRONG * REFERENCE_PULL:
        t = TIMESTEPS // 2 if schedule is None else len(schedule) // 2
        shift = "" if schedule is None else f" (t = {schedule.told(t)} trains as t = {acts(schedule, found, t)})"
        shape = "x".join(map(str, latents.shape))
        return (
            f"note: {label} acts {found.pull / REFERENCE_PULL:.1f} times as strongly on these latents of {shape} as "
            f"{REFERENCE}{shift}; {_instead(plugin, settings, latents, batch_size)}. `noise CONFIG` shows more."
        )
    return _telling(name, settings, images=images, batch_size=batch_size)


def _telling(name: str, settings: BaseModel, *, images: int, batch_size: int) -> str | None:
    """Whether the noise can tell the images apart."""
    plugin = registry.find("noise", name)
    label = f"noise.{name} ({plugin.headline} = {getattr(settings, plugin.headline)})"
    nats = plugin.information(settings, paired_together(plugin(settings), batch_size))
    if images > 0 and nats and math.isinf(nats):
        return f"note: {label} tells every image by its noise, as no picture that is drawn will be; expect memorising."
    if images > 0 and nats and nats >= math.log(images):
        return (
            f"note: {label} puts up to {nats:.1f} nats about an image into its noise; ln {images} = "
            f"{math.log(images):.1f} tell the {images} images of this set apart. A smaller value lowers the risk of "
            "memorising; `noise CONFIG` shows more."
        )
    return None


def _pairs(stages: Stages) -> bool:
    return any(registry.find("noise", name).phase == "pair" for name in stages)


def _lines(
    stages: Stages, dataset: Dataset, latents: FlatLatents, accumulation: int, schedule: SignalSchedule | None
) -> list[str]:
    batch = max(dataset.batch_size(item) for item in dataset.items) * accumulation
    images = len(dataset.items)
    found = [
        warning(latents, name, settings, images=images, batch_size=batch, schedule=schedule)
        for name, settings in stages.items()
    ]
    captions = [item.captions[0] for item in dataset.items]
    remarks = [
        f"note: noise.{name}: {remark}."
        for name, settings in stages.items()
        if (remark := registry.find("noise", name).remark_on(settings, captions))
    ]
    return [*(line for line in found if line is not None), *remarks]


def _enough(dimension: int) -> int:
    """How many latents tell the strength roughly."""
    return min(128, max(16, ROUGH_NUMBERS // dimension))


def _roughly(stage: NoiseStage, latents: FlatLatents, batch_size: int, timesteps: int = TIMESTEPS) -> Effect:
    """Measured where the stage acts, with as large a pool as the latents allow."""
    acting = acting_timesteps(stage, timesteps, latents.x.device) or [0]
    together = min(len(latents), paired_together(stage, batch_size))
    draws = min(1024, max(64, ROUGH_NUMBERS // latents.dimension))
    return effect(stage, latents, draws=draws, timestep=acting[len(acting) // 2], together=together)


def _instead(plugin: type[NoiseStage], settings: BaseModel, latents: FlatLatents, batch_size: int) -> str:
    """Which value would be as strong as the reference."""
    measured: list[tuple[int, float]] = []
    for value, with_value in swept(plugin, settings):
        other = plugin(with_value)
        if paired_together(other, batch_size) > len(latents):
            break
        measured.append((value, _roughly(other, latents, batch_size).pull))
        if measured[-1][1] >= REFERENCE_PULL:
            break
    return f"as strong as that would be: {as_strong(plugin.headline, measured)}"
