"""Turns images into latents, in batches of one size, with decoding running ahead."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer import randomness
from trainer.data.cache.ahead import in_order
from trainer.data.dataset import Dataset, Size
from trainer.data.pictures import hiding, views
from trainer.data.pictures.files import printable
from trainer.data.pictures.render import Rendered, render
from trainer.errors import UserError

# (B, 3, H, W) in [-1, 1] -> the posterior's mean, (B, C, h, w), times the VAE scale; or its mean and deviation.
Encode = Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]
Sampling = Literal["mean", "once", "fresh"]
Progress = Callable[[int, int], None]  # (done, total)
WORKERS = min(8, os.cpu_count() or 1)
PIXELS = 1024 * 1024  # encoded at once, if it is more than one image: a VAE takes gigabytes for each million of them


@dataclass(frozen=True, slots=True, order=True)
class Variant:
    """One thing to encode: an image, or its mirror image, whole or with something hidden."""

    item: int
    mirrored: bool = False
    hidden: int = hiding.SEEN  # the number of an area that is hidden


@dataclass(frozen=True, slots=True)
class Stored:
    """What a cache holds of a variant, on the CPU."""

    mean: Tensor  # (C, h, w) float32, times the VAE scale
    std: Tensor | None = None  # (C, h, w) float32: each use draws mean + std * noise
    mask: Tensor | None = None  # (h, w) uint8, 255 = inside; of a picture with something hidden: hidden


def variants(dataset: Dataset) -> list[Variant]:
    """Everything of a dataset that can be shown, as far as it can be encoded ahead."""
    sides = {True: (False, True), False: (False,)}
    return [
        Variant(index, mirrored, hidden)
        for index, item in enumerate(dataset.items)
        for mirrored in sides[item.source.options.flip_aug]
        for hidden in (hiding.SEEN, *range(hiding.count(item, dataset.hiding)))
    ]


def batches_of_one_size(dataset: Dataset, wanted: Sequence[Variant], batch_size: int) -> list[list[Variant]]:
    """The variants in batches that share a training size, in the order they come."""
    by_size: dict[Size, list[Variant]] = {}
    for variant in wanted:
        by_size.setdefault(dataset.items[variant.item].target, []).append(variant)
    return [same[i : i + batch_size] for same in by_size.values() for i in range(0, len(same), batch_size)]


Ready = Callable[[Variant], "Stored | None"]  # what need not be encoded, since it lies elsewhere


def encoded(
    dataset: Dataset,
    batches: Sequence[Sequence[Variant]],
    encode: Encode,
    *,
    ready: Ready | None = None,
    workers: int = WORKERS,
) -> Iterator[tuple[Variant, Stored]]:
    """Encodes batches of one size each, in their order.

    Raises UserError naming the file that cannot be read, or of which the VAE makes NaN.
    """

    def prepared(variant: Variant) -> Rendered | Stored:
        found = ready(variant) if ready is not None else None
        return found or _picture(dataset, variant)

    flat = [variant for batch in batches for variant in batch]
    longest = max(map(len, batches), default=1)
    inputs = in_order(prepared, flat, workers=workers, window=workers + 2 * longest)
    for batch in batches:
        given = [next(inputs) for _ in batch]
        pictures = [one for one in given if isinstance(one, Rendered)]
        made = iter(_through(encode, pictures)) if pictures else iter(())
        for variant, one in zip(batch, given, strict=True):
            stored = one if isinstance(one, Stored) else next(made)
            check_finite(stored, dataset.items[variant.item].path)
            yield variant, stored


def _picture(dataset: Dataset, variant: Variant) -> Rendered:
    item = dataset.items[variant.item]
    whole = render(item, views.plain(item, mirrored=variant.mirrored), dataset.rendering)
    if variant.hidden == hiding.SEEN:
        return whole
    return hiding.partly(whole, item, dataset.rendering.cell, hiding.numbered(whole, variant.hidden))


def together(width: int, height: int) -> int:
    """How many images of a size go through the VAE at once, at most."""
    return max(1, PIXELS // (width * height))


def _through(encode: Encode, pictures: Sequence[Rendered]) -> list[Stored]:
    height, width = pictures[0].pixels.shape[:2]
    count = together(width, height)
    portions = [pictures[i : i + count] for i in range(0, len(pictures), count)]
    return [stored for portion in portions for stored in _as_memory_allows(encode, portion)]


def _as_memory_allows(encode: Encode, pictures: Sequence[Rendered]) -> list[Stored]:
    """All at once, or one by one where the device's memory is too small for that. Raises torch.OutOfMemoryError."""
    try:
        return _at_once(encode, pictures)
    except torch.OutOfMemoryError:
        if len(pictures) == 1:
            raise
    torch.cuda.empty_cache()  # outside the handler: the exception holds the tensors that filled the memory
    return [stored for picture in pictures for stored in _at_once(encode, [picture])]


def _at_once(encode: Encode, pictures: Sequence[Rendered]) -> list[Stored]:
    output = encode(torch.stack([picture.tensor() for picture in pictures]))  # (B, 3, H, W)
    mean, std = output if isinstance(output, tuple) else (output, None)
    means = mean.detach().float().cpu()  # (B, C, h, w)
    stds = None if std is None else std.detach().float().cpu()
    return [
        # Cloned: a row of a larger tensor would keep all of it alive.
        Stored(
            means[row].clone(),
            None if stds is None else stds[row].clone(),
            None if picture.mask is None else torch.from_numpy(picture.mask.copy()),
        )
        for row, picture in enumerate(pictures)
    ]


def reduced(stored: Stored, sampling: Sampling, key: str) -> Stored:
    """What is kept of a posterior: its mean; or one sample, the same for the same `key`; or all of it."""
    if sampling == "fresh" or stored.std is None:
        return stored
    if sampling == "mean":
        return Stored(stored.mean, None, stored.mask)
    return Stored(draw(stored, randomness.generator(0, f"posterior of {key}")), None, stored.mask)


def draw(stored: Stored, stream: torch.Generator) -> Tensor:
    """(C, h, w): a posterior sample, or the mean where there is no deviation."""
    if stored.std is None:
        return stored.mean
    return stored.mean + stored.std * torch.randn(stored.mean.shape, generator=stream)


def check_finite(stored: Stored, path: str) -> None:
    parts = (stored.mean,) if stored.std is None else (stored.mean, stored.std)
    if not all(torch.isfinite(part).all() for part in parts):
        raise UserError(
            f"{printable(path)}: the VAE made NaN or infinity of this image. "
            "With model.vae_precision = 'fp16' set 'bf16' or 'fp32'; else the VAE's file is damaged."
        )
