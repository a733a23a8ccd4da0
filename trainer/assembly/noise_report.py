"""The noise report of a run: its own images, encoded as training would, in front of every pairing stage."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import save_file

from trainer.assembly.data import scan_data, split_of
from trainer.assembly.encoding import latents_of
from trainer.assembly.model import objective_of, open_to_train
from trainer.assembly.processes import accelerator_for
from trainer.assembly.run import run_dir_of
from trainer.config.schema.whole import BaseConfig
from trainer.device.placement import VAE, Placement
from trainer.journal.console import Console
from trainer.protocols import Family
from trainer.reports.noise import report as noise_report
from trainer.reports.noise.effect import FlatLatents
from trainer.reports.noise.sample import LatentSample
from trainer.run.advice import LESS_AT_ONCE, shortage_told
from trainer.run.results import DTYPES

KEPT = 4  # latents that are kept for pictures


def report(config: BaseConfig, console: Console, *, images: int, keep: Path | None = None) -> None:
    """The noise report of the config's own images, at most `images` of them; `keep`: a file for some latents."""
    accelerator, family = accelerator_for(config), open_to_train(config)
    objective = objective_of(config, family)
    found = split_of(config, scan_data(config, console, family)).training
    sample = noise_report.sample(found, images, config.run.seed)
    asked = noise_report.ReportRequest(
        objective=objective,
        objective_name=objective.diffusers_name,
        stages=config.noise.stages(),
        batch_size=max(found.batch_size(found.items[index]) for index in sample.items),
        accumulation=config.training.gradient_accumulation * accelerator.num_processes,
        sizes=sample.sizes,
        seed=config.run.seed,
    )
    with shortage_told("while images were encoded", LESS_AT_ONCE):
        latents = latents_to_measure(config, console, accelerator, family, sample)
    if keep is not None:
        some = latents.x[:KEPT].unflatten(1, latents.shape).cpu().contiguous()
        save_file({"latents": some}, keep)
    with shortage_told("while noise was measured", "fewer --images"):
        noise_report.write_and_tell(latents, asked, run_dir_of(config), console)


def latents_to_measure(
    config: BaseConfig, console: Console, accelerator: Accelerator, family: Family, chosen: LatentSample
) -> FlatLatents:
    """The latents of some images, for a report: from the disk cache where there is one, which they complete."""
    if not (config.data.cache_latents and config.data.cache_to_disk):
        return noise_report.latents_of(chosen, family, accelerator.device, console)
    placement = Placement(family, accelerator.device, DTYPES[config.training.precision], [VAE])
    own = noise_report.restricted(chosen)
    return noise_report.read_latents(
        own, latents_of(config, console, accelerator, placement, own.dataset).read, accelerator.device
    )
