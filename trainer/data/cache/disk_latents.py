"""Latents on disk, under keys made of everything that they depend on, so that a stale one can never be used."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from trainer.data.cache import content
from trainer.data.cache.encode import WORKERS, Encode, Progress, Sampling, Stored, Variant, encoded, reduced, variants
from trainer.data.cache.folder import filling
from trainer.data.cache.kohya_npz import KohyaLatents
from trainer.data.cache.shards import ShardStore
from trainer.data.dataset import Dataset, ImageItem, Size
from trainer.data.pictures import hiding
from trainer.errors import RunError

VERSION = 1  # of everything between an image file and its latents; to be raised when any of it changes its result
SHARD = 32  # entries in a shard, on average


@dataclass(frozen=True)
class LatentRecipe:
    """What, besides the image, decides about its latents."""

    vae: str  # hash of the VAE's weights
    sampling: Sampling = "mean"
    dtype: torch.dtype = torch.float32  # of what is stored
    precision: torch.dtype = torch.float32  # in which the VAE computes

    @property
    def encoder(self) -> str:
        """What encodes, in one word; float32 goes without saying, as in caches that were made before it was asked."""
        return self.vae if self.precision == torch.float32 else f"{self.vae} {self.precision}"


class DiskLatents:
    """A dataset's latents in a folder that runs share."""

    def __init__(
        self,
        dataset: Dataset,
        folder: Path,
        recipe: LatentRecipe,
        *,
        kohya: KohyaLatents | None = None,
        workers: int = WORKERS,
    ) -> None:
        """Reads (or remembers) every image file for its hash. With `kohya`, latents of kohya's that fit are taken over.
        Raises BrokenImageError."""
        self.dataset = dataset
        self.store = ShardStore(folder)
        self._recipe = recipe
        self._workers = workers
        hashes = content.FileHashes(folder / "hashes.json")
        self._kohya = kohya
        self.taken_over = _taken_over(dataset, kohya)
        files = [item.path for item in dataset.items] + [item.mask for item in dataset.items if item.mask]
        self._keys = _keys(dataset, recipe, self.taken_over, hashes.of([*files, *self.taken_over.values()]))

    @property
    def missing(self) -> list[Variant]:
        """What is not in the cache yet."""
        return [variant for variant, key in self._keys.items() if key not in self.store]

    def fill(
        self,
        encode: Encode,
        *,
        batch_size: int = 4,
        rank: int = 0,
        world: int = 1,
        on_progress: Progress | None = None,
    ) -> None:
        """Encodes what is missing, this process's share of it; afterwards, and once all others are done, `refresh`.

        Killed at any moment, it goes on from the last whole shard, and ends with the same bytes. Raises UserError for
        an image that cannot be encoded, RunError when the disk is full.
        """
        with filling(self.store.folder):
            chunks = [c for c in self._chunks() if int(self._keys[c[0]], 16) % world == rank]
            batches = [chunk[i : i + batch_size] for chunk in chunks for i in range(0, len(chunk), batch_size)]
            results = encoded(self.dataset, batches, encode, ready=self._ready, workers=self._workers)
            total, done = sum(map(len, chunks)), 0
            for chunk in chunks:
                entries: dict[str, dict[str, Tensor]] = {}
                for variant, stored in islice(results, len(chunk)):
                    key = self._keys[variant]
                    entries[key] = self._entry(reduced(stored, self._recipe.sampling, key))
                    done += 1
                    if on_progress is not None:
                        on_progress(done, total)
                if done == len(chunk):
                    self._check_space(entries, total)
                self.store.write(entries)

    def _ready(self, variant: Variant) -> Stored | None:
        if self._kohya is None or variant not in self.taken_over or variant.hidden != hiding.SEEN:
            return None
        return self._kohya.read(self.dataset.items[variant.item], variant.mirrored, self.dataset.rendering)

    def refresh(self) -> None:
        """Takes in what other processes have encoded."""
        self.store.refresh()

    def read(self, variant: Variant) -> Stored:
        tensors = self.store.read(self._keys[variant])
        std = tensors.get("std")
        return Stored(tensors["mean"].float(), None if std is None else std.float(), tensors.get("mask"))

    def means(self, variants: Sequence[Variant]) -> Tensor | None:
        stacked = self.store.read_stacked([self._keys[variant] for variant in variants], "mean")
        return None if stacked is None else stacked.float()

    def _entry(self, stored: Stored) -> dict[str, Tensor]:
        entry = {"mean": stored.mean.to(self._recipe.dtype)}
        if stored.std is not None:
            entry["std"] = stored.std.to(self._recipe.dtype)
        if stored.mask is not None:
            entry["mask"] = stored.mask
        return entry

    def _chunks(self) -> list[list[Variant]]:
        """The missing variants in future shards.

        Cut by the keys themselves (behind each that is divisible by `SHARD`), so that the cuts do not move when other
        entries come or have come already: an interrupted cache is continued with the very same shards.
        """
        by_size: dict[Size, list[Variant]] = {}
        for variant in self._keys:
            by_size.setdefault(self.dataset.items[variant.item].target, []).append(variant)
        chunks: list[list[Variant]] = []
        for size in sorted(by_size):
            chunks.append([])
            for variant in sorted(by_size[size], key=self._keys.__getitem__):
                key = self._keys[variant]
                if key not in self.store:
                    chunks[-1].append(variant)
                if int(key, 16) % SHARD == 0:
                    chunks.append([])
        return [self._without_twins(chunk) for chunk in chunks if chunk]

    def _without_twins(self, chunk: Sequence[Variant]) -> list[Variant]:
        """One of each key: two copies of a file have the same."""
        return list({self._keys[variant]: variant for variant in chunk}.values())

    def _check_space(self, sample: dict[str, dict[str, Tensor]], total: int) -> None:
        each = sum(tensor.nbytes for entry in sample.values() for tensor in entry.values()) / len(sample)
        self.store.folder.mkdir(parents=True, exist_ok=True)
        need, free = int(each * total), shutil.disk_usage(self.store.folder).free
        if need > free:
            raise RunError(
                f"{self.store.folder}: the cache needs about {need / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free. "
                "Make room, set data.cache_dir to another disk, or data.cache_dtype = 'fp16' to halve it."
            )


def _taken_over(dataset: Dataset, kohya: KohyaLatents | None) -> dict[Variant, str]:
    """The files of kohya's that are used, by what they are used for."""
    if kohya is None:
        return {}
    items = dataset.items
    return {
        variant: str(kohya.file(items[variant.item]))
        for variant in variants(dataset)
        if variant.hidden == hiding.SEEN
        and kohya.read(items[variant.item], variant.mirrored, dataset.rendering) is not None
    }


def _keys(
    dataset: Dataset, recipe: LatentRecipe, taken_over: dict[Variant, str], hashes: dict[str, str]
) -> dict[Variant, str]:
    rendering, kept = dataset.rendering, (recipe.sampling, str(recipe.dtype))
    found = {}
    for variant in variants(dataset):
        item = dataset.items[variant.item]
        found[variant] = content.digest(
            VERSION,
            # Nobody knows which VAE made kohya's latents: they get keys of their own.
            [hashes[taken_over[variant]] if variant in taken_over else recipe.encoder, *kept],
            [hashes[item.path], hashes[item.mask] if item.mask else None, item.source.alpha_mask],
            [item.resized, item.corner, item.target, variant.mirrored],
            [item.source.options.resize_interpolation, rendering.background, rendering.cell],
            *_hidden(item, variant),
        )
    return found


def _hidden(item: ImageItem, variant: Variant) -> list[list[object]]:
    """What decides about the hidden area; nothing where there is none."""
    if variant.hidden == hiding.SEEN:
        return []
    return [["hidden", hiding.VERSION, variant.hidden, hiding.takes_own(item)]]
