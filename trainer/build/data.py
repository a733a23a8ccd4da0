"""The images of a run: found, split, encoded, and what measures on those that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from trainer import lora, validation_set
from trainer.batch import TextStates
from trainer.build.model import objective_of
from trainer.build.noise import noise_warnings
from trainer.config import BaseConfig
from trainer.console import Console
from trainer.data import holdout
from trainer.data.cache import Latents, MemoryLatents, TextCache
from trainer.data.dataset import Dataset
from trainer.data.holdout import Split
from trainer.data.loader import Loader
from trainer.data.on_demand import OnDemandLatents
from trainer.data.plan import Plan
from trainer.data.scan import scan
from trainer.events import Sink
from trainer.loop import Pace
from trainer.protocols import Family
from trainer.results import Result
from trainer.run_dir import RunDir
from trainer.validator import Validator


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
    return [f"validation: {count} images are held out{some}, {len(split.training.items)} train"]


def make_loader(
    config: BaseConfig,
    console: Console,
    accelerator: Accelerator,
    family: Family,
    plan: Plan,
    pace: Pace,
    *,
    on_demand: bool = False,
) -> Loader:
    """Fills the caches that the config asks for; `on_demand`: gives the same without filling them."""
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

    def encode_images(pixels: Tensor) -> Tensor:
        return family.encode_images(pixels.to(accelerator.device))

    if config.data.cache_latents and on_demand:
        latents = OnDemandLatents(plan.dataset, encode_images)
    elif config.data.cache_latents:
        with torch.no_grad(), console.progress("encoding images", len(plan.dataset.items), "images") as update:
            latents = MemoryLatents.encode(plan.dataset, encode_images, on_progress=lambda done, _: update(done, ""))
        for line in noise_warnings(config, family, plan.dataset, latents, pace):
            console.say(line)
    if config.data.cache_text and not config.training.text_encoder:
        # Under autocast, as in the network: cached states equal live ones.
        def encode(captions: Sequence[str]) -> TextStates:
            with torch.no_grad(), accelerator.autocast():
                return family.encode_text(captions)

        texts = TextCache(encode)
        captions = set() if on_demand else make().possible_captions()
        with console.progress("encoding captions", len(captions), "captions") as update:
            texts.prepare(captions, on_progress=lambda done, _: update(done, ""))
    return make(latents=latents, texts=texts)


def validator_of(
    config: BaseConfig,
    accelerator: Accelerator,
    family: Family,
    split: Split,
    run_dir: RunDir,
    result: Result,
    emit: Sink,
    done: int,
) -> Validator | None:
    """None when nothing is held out."""
    if not split.held_out.items:
        return None
    objective, settings = objective_of(config, family), config.validation

    def encode_text(captions: Sequence[str]) -> TextStates:
        with torch.no_grad(), accelerator.autocast():
            return family.encode_text(captions)

    questions = validation_set.make(
        split,
        settings,
        objective=objective.diffusers_name,
        schedule=len(family.alphas_cumprod),
        encode_images=lambda pixels: family.encode_images(pixels.to(accelerator.device)),
        encode_text=None if config.training.text_encoder else encode_text,
    )
    return Validator(
        questions,
        family,
        objective,
        accelerator,
        run_dir,
        result,
        emit,
        without=partial(lora.scaled, family, 0.0) if config.training.method == "lora" else None,
        patience=settings.early_stop,
        keep_best=settings.keep_best,
        start=done,
    )
