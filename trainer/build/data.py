"""The images of a run: found, split, encoded, and what measures on those that are held out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from trainer import lora
from trainer.batch import Batch
from trainer.build.encoding import image_encoder, latents_of, text_encoder, texts_of
from trainer.build.model import objective_of
from trainer.build.noise import noise_warnings
from trainer.config import BaseConfig
from trainer.console import Console
from trainer.data import holdout
from trainer.data.cache import Latents
from trainer.data.dataset import Dataset
from trainer.data.holdout import Split
from trainer.data.images import printable
from trainer.data.loader import Loader
from trainer.data.on_demand import OnDemandLatents
from trainer.data.plan import Plan
from trainer.data.prefetch import Prefetch
from trainer.data.scan import scan
from trainer.device.placement import VAE, Placement
from trainer.events import Sink
from trainer.loop import Pace
from trainer.measuring import validation_set
from trainer.measuring.validation_set import ValidationSet
from trainer.measuring.validator import Validator
from trainer.protocols import Family
from trainer.run.control import Control
from trainer.run.results import SharedResult
from trainer.run_dir import RunDir


def scan_data(config: BaseConfig, console: Console, family: Family) -> Dataset:
    dataset = scan(
        config.datasets, config.general, config.data, config_dir=Path.cwd(), size_multiple=family.latent_factor
    )
    for line in dataset.notes:
        console.say(line)
    for skipped in dataset.skipped:
        console.say(f"{skipped.path}: skipped: {skipped.reason}")
    return dataset


def split_of(config: BaseConfig, dataset: Dataset, size_multiple: int) -> Split:
    """What trains and what is held out to measure with; nothing is, unless the config asks for it."""
    settings = config.validation
    if not settings.datasets:
        return holdout.split(dataset, settings)
    return holdout.own_images(
        dataset, settings, config.general, config.data, config_dir=Path.cwd(), size_multiple=size_multiple
    )


def held_out_lines(config: BaseConfig, split: Split) -> list[str]:
    count = len(split.held_out.items)
    if not count:
        return []
    measured = min(count, config.validation.images or count)
    some = f" ({measured} of them are measured)" if measured < count else ""
    lines = [f"validation: {count} images are held out{some}, {len(split.training.items)} train"]
    for path, other in holdout.copies(split):
        lines.append(
            f"validation: {printable(path)} trains and is the same file as {printable(other)}, which is held out: "
            "that measures memory rather than learning; remove one of them"
        )
    return lines


def make_loader(
    config: BaseConfig,
    console: Console,
    accelerator: Accelerator,
    placement: Placement,
    plan: Plan,
    pace: Pace,
    *,
    on_demand: bool = False,
) -> Loader:
    """Fills the caches that the config asks for; `on_demand`: gives the same without filling them."""
    family = placement.family
    make = partial(
        Loader,
        plan.dataset,
        plan,
        config.run.seed,
        batches_per_step=pace.accumulation * accelerator.num_processes,
        steps=pace.steps,
    )
    latents: Latents | None = None
    texts = None
    if config.data.cache_latents and on_demand:
        latents = OnDemandLatents(plan.dataset, image_encoder(config, placement))
    elif config.data.cache_latents:
        latents = latents_of(config, console, accelerator, placement, plan.dataset)
        for line in noise_warnings(config, family, plan.dataset, latents, pace):
            console.say(line)
    if config.data.cache_text and not config.training.text_encoder:
        bare = make()
        if not bare.captions_foreseen:
            placement.keep(family.text_parts)  # they encode while the run goes on
        captions = set() if on_demand else bare.possible_captions()
        texts = texts_of(config, console, accelerator, placement, captions)
    return make(latents=latents, texts=texts)


def ahead(config: BaseConfig, loader: Loader, accelerator: Accelerator) -> Callable[[int], Batch]:
    """The loader's batches for the loop, made by worker threads while steps run."""
    return Prefetch(
        loader,
        stride=accelerator.num_processes,
        workers=config.data.workers,
        pin=accelerator.device.type == "cuda",
    ).batch


def questions_of(
    config: BaseConfig, accelerator: Accelerator, placement: Placement, split: Split
) -> ValidationSet | None:
    """What will be measured, encoded; None when nothing is held out."""
    if not split.held_out.items:
        return None
    family = placement.family

    def encode_images(pixels: Tensor) -> Tensor:
        with placement.used(VAE):
            return family.encode_images(pixels.to(placement.device))

    with placement.held():
        return validation_set.make(
            split,
            config.validation,
            objective=objective_of(config, family).diffusers_name,
            schedule=len(family.alphas_cumprod),
            encode_images=encode_images,
            encode_text=None if config.training.text_encoder else text_encoder(accelerator, placement),
        )


def validator_of(
    config: BaseConfig,
    accelerator: Accelerator,
    family: Family,
    questions: ValidationSet,
    run_dir: RunDir,
    result: SharedResult,
    emit: Sink,
    control: Control,
    done: int,
) -> Validator:
    settings = config.validation
    return Validator(
        questions,
        family,
        objective_of(config, family),
        accelerator,
        run_dir,
        result,
        emit,
        without=partial(lora.scaled, family, 0.0) if config.training.method == "lora" else None,
        patience=settings.early_stop,
        keep_best=settings.keep_best,
        start=done,
        stopped=control.stops,
    )
