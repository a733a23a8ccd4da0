"""The noise and the timesteps of a run."""

from __future__ import annotations

from dataclasses import replace

from accelerate import Accelerator

from trainer import registry
from trainer.assembly.model import objective_of
from trainer.batch import Batch, NoiseSchedule, sent
from trainer.config.schema.whole import BaseConfig
from trainer.data.cache.memory import LatentSource
from trainer.data.dataset import Dataset
from trainer.data.order.prefetch import pinned
from trainer.data.order.source import Source
from trainer.errors import UserError
from trainer.parallel.stream import global_index
from trainer.protocols import Family
from trainer.reports.noise import warning as noise_warning
from trainer.reports.noise.shift import SignalSchedule
from trainer.training.noise import NoiseChain
from trainer.training.pace import Pace
from trainer.training.pool import NoisePool, Place
from trainer.training.timesteps import TimestepSampler


def timesteps_of(config: BaseConfig, schedule: NoiseSchedule) -> TimestepSampler:
    settings = config.timesteps.model_dump()
    low, high = (round(settings.pop(name) * schedule.steps / 1000) for name in ("min", "max"))
    return TimestepSampler(low=low, high=high, continuous=schedule.continuous, **settings)


def noise_chain(
    config: BaseConfig, schedule: NoiseSchedule, source: Source, pace: Pace, accelerator: Accelerator
) -> NoiseChain:
    """All stages that are on; one that pairs beyond its micro-batch gets a pool that looks ahead in the source."""
    chain = NoiseChain({n: registry.find("noise", n)(settings) for n, settings in config.noise.stages().items()})
    for name, stage in chain.stages.items():
        if stage.remembers and accelerator.num_processes > 1:
            raise UserError(f"noise.{name}: what it remembers is kept by one process; train with one, or turn it off.")
        pool = stage.pool
        if stage.phase != "pair" or pool in (0, "batch"):
            continue
        if not config.data.cache_latents:
            raise UserError(f"noise.{name}.pool: pairing beyond the micro-batch needs data.cache_latents = true.")

        def batch(place: Place) -> Batch:
            index = global_index(place[0], place[1], pace.accumulation, place[2], accelerator.num_processes)
            found = source.batch(index)
            assert found.latents is not None
            latents = pinned(found.latents) if accelerator.device.type == "cuda" else found.latents
            return replace(found, latents=sent(latents, accelerator.device).float())

        chain.pool = NoisePool(
            name,
            stage,
            size=pool if isinstance(pool, int) else 0,
            batch=batch,
            timesteps=timesteps_of(config, schedule),
            accumulation=pace.accumulation,
            ranks=accelerator.num_processes,
            batch_size=source.batch_size,
        )
    return chain


def noise_warnings(
    config: BaseConfig, family: Family, dataset: Dataset, latents: LatentSource, pace: Pace
) -> list[str]:
    """Where pairing noise shifts this data's signal-to-noise ratio strongly."""
    schedule = SignalSchedule.of(objective_of(config, family))
    stages = config.noise.stages()
    return noise_warning.warnings(stages, dataset, latents.read, accumulation=pace.accumulation, schedule=schedule)


def noise_warnings_before_encoding(config: BaseConfig, family: Family, dataset: Dataset, pace: Pace) -> list[str]:
    """The same before there are latents: of the base's own shape, with its schedule."""
    schedule = SignalSchedule.of(objective_of(config, family))
    return noise_warning.warnings_before_encoding(
        config.noise.stages(), dataset, family.latent_channels, accumulation=pace.accumulation, schedule=schedule
    )
