"""Chooses the images whose latents the noise report looks at: of one size, since only equal shapes are ever paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.data.cache.encode import Encode, Stored, Variant, batches_of_one_size, draw, encoded
from trainer.data.dataset import Dataset, Size
from trainer.randomness import generator, python_random

BATCH = 4  # images that are encoded at once


@dataclass(frozen=True)
class LatentSample:
    """Images of the commonest training size, chosen from a dataset."""

    dataset: Dataset
    items: tuple[int, ...]  # indices into the dataset's items, ascending
    sizes: tuple[tuple[Size, int], ...]  # all sizes (width, height) of the dataset with their images, commonest first

    @property
    def captions(self) -> tuple[str, ...]:
        """The first of each image."""
        return tuple(self.dataset.items[index].captions[0] for index in self.items)

    @property
    def size(self) -> Size:
        return self.sizes[0][0]


def sample(dataset: Dataset, most: int, seed: int) -> LatentSample:
    """At most `most` images of the commonest size, picked at random. The dataset must hold an image."""
    sizes = Counter(item.target for item in dataset.items).most_common()
    alike = [index for index, item in enumerate(dataset.items) if item.target == sizes[0][0]]
    if len(alike) > most:
        alike = sorted(python_random(seed, "noise report").sample(alike, most))
    return LatentSample(dataset, tuple(alike), tuple(sizes))


def restricted(found: LatentSample) -> LatentSample:
    """The same images as the whole of a dataset, so that no other is looked for in a cache."""
    chosen = tuple(found.dataset.items[index] for index in found.items)
    return LatentSample(replace(found.dataset, items=chosen), tuple(range(len(chosen))), found.sizes)


def read(found: LatentSample, stored: Callable[[Variant], Stored]) -> Tensor:
    """(I, C, h, w) float32 on the CPU, from a cache: the images as they are, none of them mirrored."""
    return torch.stack([_latent(stored(Variant(index)), index) for index in found.items])


def encode(found: LatentSample, encoder: Encode, on_progress: Callable[[int, int], None] | None = None) -> Tensor:
    """The same, by encoding them now. Raises UserError naming a file that cannot be read."""
    batches = batches_of_one_size(found.dataset, [Variant(index) for index in found.items], BATCH)
    latents = []
    for variant, stored in encoded(found.dataset, batches, encoder):
        latents.append(_latent(stored, variant.item))
        if on_progress is not None:
            on_progress(len(latents), len(found.items))
    return torch.stack(latents)


def _latent(stored: Stored, index: int) -> Tensor:
    """(C, h, w): of a posterior one sample, the same every time."""
    return draw(stored, generator(0, "noise report posterior", index))
