"""Keeps what frozen encoders make of images and captions, so that each is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trainer.batch import TextStates
from trainer.data import images
from trainer.data.buckets import Size
from trainer.data.dataset import Dataset, Item
from trainer.errors import UserError

Encode = Callable[[Tensor], Tensor]  # (B, 3, H, W) in [-1, 1] -> (B, C, h, w), times the VAE scale
EncodeText = Callable[[Sequence[str]], TextStates]
Progress = Callable[[int, int], None]  # (done, total)


class Latents(Protocol):
    """Where the loader finds the latents of an image."""

    def latents(self, item: int) -> Tensor:
        """(C, h, w) float32 on the CPU, times the VAE scale."""
        ...


def pixels_of(item: Item) -> Tensor:
    """(3, H, W) float32 in [-1, 1]: the image resized and cropped to its training size. Raises BrokenImageError."""
    image = images.load(item.path)
    if image.size != item.original:
        raise images.BrokenImageError(item.path, f"was {item.original} when it was scanned and is {image.size} now")
    return images.to_tensor(images.resize_and_crop(image, item.resized, item.corner, item.target))


class MemoryLatents:
    """Latents of a whole dataset in the host's memory."""

    def __init__(self, latents: dict[int, Tensor]) -> None:
        self._latents = latents

    def latents(self, item: int) -> Tensor:
        return self._latents[item]

    @classmethod
    def encode(
        cls, dataset: Dataset, encode: Encode, *, batch_size: int = 4, on_progress: Progress | None = None
    ) -> MemoryLatents:
        """Encodes every image once, in batches of one size. Raises UserError naming the file of a NaN or infinity."""
        found: dict[int, Tensor] = {}
        for chunk in chunks_by_size(dataset.items, batch_size):
            pixels = torch.stack([pixels_of(dataset.items[i]) for i in chunk])  # (B, 3, H, W)
            encoded = encode(pixels).detach().float().cpu()  # (B, C, h, w)
            for index, latents in zip(chunk, encoded, strict=True):
                check_finite(latents, dataset.items[index])
                found[index] = latents.clone()
            if on_progress is not None:
                on_progress(len(found), len(dataset.items))
        return cls(found)


def chunks_by_size(items: Sequence[Item], batch_size: int) -> list[list[int]]:
    """The indices of items in batches that share a training size, each size in the order of the items."""
    by_size: dict[Size, list[int]] = {}
    for index, item in enumerate(items):
        by_size.setdefault(item.target, []).append(index)
    return [same[i : i + batch_size] for same in by_size.values() for i in range(0, len(same), batch_size)]


def check_finite(latents: Tensor, item: Item) -> None:
    if not torch.isfinite(latents).all():
        raise UserError(
            f"{images.printable(item.path)}: the VAE made NaN or infinity of this image. "
            "Is the VAE run in float16? SDXL's needs float32 or bfloat16; else the VAE file is damaged."
        )


class TextCache:
    """The text states of each distinct caption. Those that were not prepared are encoded when they are asked for, and
    only the `recent` latest of them are kept: captions whose tags are shuffled hardly ever come again."""

    def __init__(self, encode: EncodeText, *, batch_size: int = 16, recent: int = 256) -> None:
        self._encode = encode
        self._batch_size = batch_size
        self._recent = recent
        self._prepared: dict[str, TextStates] = {}
        self._passing: dict[str, TextStates] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._prepared)

    def prepare(self, captions: Iterable[str], on_progress: Progress | None = None) -> None:
        """Encodes the captions that are not there yet, to keep."""
        missing = sorted(set(captions) - self._prepared.keys())
        for start in range(0, len(missing), self._batch_size):
            chunk = missing[start : start + self._batch_size]
            self._prepared |= self._encoded(chunk)
            if on_progress is not None:
                on_progress(start + len(chunk), len(missing))

    def states(self, captions: Sequence[str]) -> TextStates:
        """The states of a batch of captions, joined, on the CPU."""
        missing = sorted(set(captions) - self._prepared.keys() - self._passing.keys())
        if missing:
            self._passing |= self._encoded(missing)
        found = TextStates.cat([self._prepared.get(c) or self._passing[c] for c in captions])
        while len(self._passing) > self._recent:
            del self._passing[next(iter(self._passing))]
        return found

    def _encoded(self, captions: Sequence[str]) -> dict[str, TextStates]:
        states = self._encode(captions).to("cpu")
        # Cloned: a row of a larger tensor would keep all of it alive.
        rows = [states.row(row) for row in range(len(captions))]
        return {
            caption: TextStates(
                row.hidden.detach().clone(), None if row.pooled is None else row.pooled.detach().clone()
            )
            for caption, row in zip(captions, rows, strict=True)
        }
