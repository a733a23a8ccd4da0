"""What frozen networks make of images and captions, kept in memory or on the disk as the config asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from trainer.assembly import vae_precision
from trainer.batch import TextStates
from trainer.config.schema.whole import BaseConfig
from trainer.data.cache import content
from trainer.data.cache.disk_latents import DiskLatents, LatentRecipe
from trainer.data.cache.disk_texts import DiskTexts
from trainer.data.cache.encode import Encode, variants
from trainer.data.cache.kohya_npz import KohyaLatents
from trainer.data.cache.memory import EncodeText, LatentSource, MemoryLatents, TextCache
from trainer.data.dataset import Dataset
from trainer.device.placement import VAE, Placement
from trainer.errors import UserError
from trainer.journal.console import Console
from trainer.protocols import Family
from trainer.run.advice import LESS_AT_ONCE, shortage_told
from trainer.run.results import DTYPES


def image_encoder(config: BaseConfig, placement: Placement) -> Encode:
    """Pixels to latents: the posterior's mean, and its deviation where samples of it are asked for."""

    def encode(pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        given = pixels.to(placement.device)
        with torch.no_grad(), placement.used(VAE):
            if config.data.latent_sampling == "mean":
                return placement.family.encode_images(given)
            return placement.family.encode_posterior(given)

    return encode


def latents_of(
    config: BaseConfig, console: Console, accelerator: Accelerator, placement: Placement, dataset: Dataset
) -> LatentSource:
    """The latents of a dataset, encoded where they are missing. Raises UserError for images that cannot be encoded,
    RunError when the disk is full."""
    encode = image_encoder(config, placement)
    data = config.data
    told = shortage_told("while images were encoded", LESS_AT_ONCE)
    if data.cache_to_disk:
        with told, placement.held():
            return _on_disk(config, console, accelerator, placement, dataset, encode)
    vae_precision.tell(config, console, placement, dataset)
    with told, placement.held(), console.progress("encoding images", len(variants(dataset)), "images") as update:
        return MemoryLatents.encode(
            dataset, encode, sampling=data.latent_sampling, on_progress=lambda done, _: update(done, "")
        )


def _on_disk(
    config: BaseConfig,
    console: Console,
    accelerator: Accelerator,
    placement: Placement,
    dataset: Dataset,
    encode: Encode,
) -> DiskLatents:
    data, family = config.data, placement.family
    kohya = KohyaLatents(data.kohya_latents, _kohya_scale(family)) if data.kohya_latents else None
    recipe = LatentRecipe(
        content.of_module(family.vae), data.latent_sampling, DTYPES[data.cache_dtype], family.vae_dtype
    )
    with accelerator.main_process_first():  # it reads the files for their hashes, the others what it remembers
        found = DiskLatents(dataset, Path(data.cache_dir) / "latents", recipe, kohya=kohya)
    for line in found.store.damaged:
        console.say(f"damaged part of the cache, made again: {line}")
    if found.taken_over:
        console.say(f"data.kohya_latents: {len(found.taken_over)} latents of kohya's fit and are taken over")
    missing, total = len(found.missing), len(variants(dataset))
    console.say(f"{found.store.folder}: {total - missing} of {total} latents are there")
    if missing:
        vae_precision.tell(config, console, placement, dataset)
    world = accelerator.num_processes
    with console.progress("encoding images", -(-missing // world), "images") as update:
        found.fill(encode, rank=accelerator.process_index, world=world, on_progress=lambda done, _: update(done, ""))
    accelerator.wait_for_everyone()
    found.refresh()
    return found


def _kohya_scale(family: Family) -> float:
    if family.kohya_scale is None:
        raise UserError(
            f"data.kohya_latents: kohya keeps latents of {family.name!r} in a form that is not read; leave it out."
        )
    return family.kohya_scale


def text_encoder(accelerator: Accelerator, placement: Placement) -> EncodeText:
    """Captions to their states, under autocast as in the network: cached states equal live ones."""

    def encode(texts: Sequence[str]) -> TextStates:
        with torch.no_grad(), accelerator.autocast(), placement.used(*placement.family.text_parts):
            return placement.family.encode_text(texts)

    return encode


def texts_of(
    config: BaseConfig, console: Console, accelerator: Accelerator, placement: Placement, captions: set[str]
) -> TextCache:
    """A cache that holds these captions, and encodes others as they come."""
    family, store = placement.family, None
    if config.data.cache_to_disk:
        weights = [content.of_module(family.parts[part]) for part in family.text_parts]
        encoder = content.digest(family.text_recipe(), weights, config.training.precision)
        store = DiskTexts(Path(config.data.cache_dir) / "texts", encoder)
    cache = TextCache(text_encoder(accelerator, placement), store=store)
    told = shortage_told("while captions were encoded", LESS_AT_ONCE)
    with told, placement.held(), console.progress("encoding captions", len(captions), "captions") as update:
        cache.prepare(captions, on_progress=lambda done, _: update(done, ""))
    return cache
