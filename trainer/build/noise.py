"""The noise and the timesteps of a run."""

from __future__ import annotations

from accelerate import Accelerator
from torch import Tensor

from trainer import registry
from trainer.build.encoding import latents_of
from trainer.build.model import objective_of
from trainer.config import BaseConfig
from trainer.console import Console
from trainer.data.cache import Latents
from trainer.data.dataset import Dataset
from trainer.data.loader import Loader
from trainer.device.placement import VAE, Placement
from trainer.errors import UserError
from trainer.loop import Pace
from trainer.noise import NoiseChain
from trainer.noise_pool import NoisePool, Place
from trainer.parallel.stream import global_index
from trainer.protocols import Family
from trainer.reports import noise_run, noise_warning
from trainer.reports.noise_effect import Latents as Measured
from trainer.reports.noise_sample import Sample
from trainer.reports.noise_shift import Schedule
from trainer.run.results import DTYPES
from trainer.timesteps import Timesteps


def timesteps_of(config: BaseConfig) -> Timesteps:
    settings = config.timesteps.model_dump()
    return Timesteps(low=settings.pop("min"), high=settings.pop("max"), **settings)


def noise_chain(config: BaseConfig, loader: Loader, pace: Pace, accelerator: Accelerator) -> NoiseChain:
    """All stages that are on; one that pairs beyond its micro-batch gets a pool that looks ahead in the loader."""
    chain = NoiseChain({n: registry.find("noise", n)(settings) for n, settings in config.noise.stages().items()})
    for name, stage in chain.stages.items():
        pool = getattr(stage, "pool", "batch")
        if stage.phase != "pair" or pool == "batch":
            continue
        if not config.data.cache_latents:
            raise UserError(f"noise.{name}.pool: pairing beyond the micro-batch needs data.cache_latents = true.")

        def clean(place: Place) -> Tensor:
            index = global_index(place[0], place[1], pace.accumulation, place[2], accelerator.num_processes)
            latents = loader.batch(index).latents
            assert latents is not None
            return latents.to(accelerator.device).float()

        chain.pool = NoisePool(
            name,
            stage,
            size=pool if isinstance(pool, int) else 0,
            clean=clean,
            timesteps=timesteps_of(config),
            accumulation=pace.accumulation,
            ranks=accelerator.num_processes,
            batch_size=max(group.batch_size for group in loader.dataset.groups),
        )
    return chain


def latents_to_measure(
    config: BaseConfig, console: Console, accelerator: Accelerator, family: Family, chosen: Sample
) -> Measured:
    """The latents of some images, for a report: from the disk cache where there is one, which they complete."""
    if not (config.data.cache_latents and config.data.cache_to_disk):
        return noise_run.latents_of(chosen, family, accelerator.device, console)
    placement = Placement(family, accelerator.device, DTYPES[config.training.precision], [VAE])
    own = noise_run.restricted(chosen)
    return noise_run.read_latents(
        own, latents_of(config, console, accelerator, placement, own.dataset).read, accelerator.device
    )


def noise_warnings(config: BaseConfig, family: Family, dataset: Dataset, latents: Latents, pace: Pace) -> list[str]:
    """Where pairing noise shifts this data's signal-to-noise ratio strongly."""
    schedule = Schedule.of(objective_of(config, family), len(family.alphas_cumprod))
    stages = config.noise.stages()
    return noise_warning.warnings(stages, dataset, latents.read, accumulation=pace.accumulation, schedule=schedule)
