"""The images of a run: found, split, encoded, and what measures on those that are held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from trainer.adapters import injection
from trainer.assembly import vae_precision
from trainer.assembly.encoding import image_encoder, latents_of, text_encoder, texts_of
from trainer.assembly.model import objective_of
from trainer.assembly.noise import noise_warnings
from trainer.batch import Batch
from trainer.config.schema.whole import BaseConfig
from trainer.data.cache.memory import LatentSource
from trainer.data.cache.on_demand import OnDemandLatents
from trainer.data.dataset import Dataset
from trainer.data.order import holdout
from trainer.data.order.holdout import Split
from trainer.data.order.loader import Loader
from trainer.data.order.plan import Plan
from trainer.data.order.prefetch import Prefetch
from trainer.data.pictures import hiding
from trainer.data.pictures.files import printable
from trainer.data.sources.scan import scan
from trainer.device.placement import VAE, Placement
from trainer.journal.console import Console
from trainer.journal.events import Sink
from trainer.journal.run_dir import RunDir
from trainer.protocols import Family
from trainer.reports.learning import page as learning_page
from trainer.run.results import SharedResult
from trainer.run.validator import Validator
from trainer.training.control import Control
from trainer.training.pace import Pace
from trainer.training.preservation import replaced
from trainer.validation import questions as validation_set
from trainer.validation.questions import ValidationSet


def scan_data(config: BaseConfig, console: Console, family: Family) -> Dataset:
    with console.counting("reading images", "images") as told:
        dataset = scan(
            config.datasets,
            config.general,
            config.data,
            config_dir=Path.cwd(),
            size_multiple=family.size_multiple,
            cell=family.latent_factor,
            reads_captions=family.reads_captions,
            on_progress=told,
        )
    for line in dataset.notes:
        console.say(line)
    for skipped in dataset.skipped:
        console.say(f"{skipped.path}: skipped: {skipped.reason}")
    if family.fills:
        console.say(_hidden_line(config, dataset))
    return replace(dataset, hiding=config.data.inpaint_masks if family.fills else 0)


def _hidden_line(config: BaseConfig, dataset: Dataset) -> str:
    own = sum(hiding.takes_own(item) for item in dataset.items)
    often = f"one of {config.data.inpaint_masks} random areas" if config.data.cache_latents else "a new random area"
    return f"inpainting: {own} images hide what their masks say, {len(dataset.items) - own} {often} each time"


def split_of(config: BaseConfig, dataset: Dataset) -> Split:
    """What trains and what is held out to measure with; nothing is, unless the config asks for it."""
    settings = config.validation
    if not settings.datasets:
        return holdout.split(dataset, settings)
    found = holdout.own_images(dataset, settings, config.general, config.data, config_dir=Path.cwd())
    return replace(found, held_out=replace(found.held_out, hiding=dataset.hiding))


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
    latents: LatentSource | None = None
    texts = None
    if config.data.cache_latents and on_demand:
        latents = OnDemandLatents(plan.dataset, image_encoder(config, placement))
    elif config.data.cache_latents:
        latents = latents_of(config, console, accelerator, placement, plan.dataset)
        for line in noise_warnings(config, family, plan.dataset, latents, pace):
            console.say(line)
    else:
        vae_precision.tell(config, console, placement, plan.dataset)
    if config.data.cache_text and not config.text_states_change:
        bare = make()
        if not bare.captions_foreseen:
            placement.keep(family.text_parts)  # they encode while the run goes on
        captions = set() if on_demand else bare.possible_captions()
        captions |= {replaced(caption, config.preservation.words) for caption in captions}
        captions |= {""} if config.preservation.blank else set()
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
            schedule=family.schedule,
            encode_images=encode_images,
            encode_text=None if config.text_states_change else text_encoder(accelerator, placement),
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
        save_best=partial(result.save, run_dir.best) if settings.keep_best else None,
        report=partial(learning_page.write, run_dir=run_dir),
        emit=emit,
        without=partial(injection.scaled, family, 0.0) if injection.adapters(family) else None,
        patience=settings.early_stop,
        start=done,
        stopped=control.stops,
    )
