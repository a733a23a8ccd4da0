"""Makes batches: what the plan says, out of caches or image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from trainer.batch import Batch, Geometry, Shown, TextStates
from trainer.data.cache import encode
from trainer.data.cache.encode import Stored, Variant
from trainer.data.cache.memory import LatentSource, TextCache
from trainer.data.captions import pipeline as caption_pipeline
from trainer.data.captions.pipeline import Moment
from trainer.data.dataset import Dataset, ImageItem
from trainer.data.order import holdout
from trainer.data.order.plan import Plan
from trainer.data.order.sample import TrainingSample
from trainer.data.pictures import hiding, views
from trainer.data.pictures.files import printable
from trainer.data.pictures.render import Rendered, render


class Loader:
    """`batch(index)` is a pure function of the dataset, the seed and the index: workers and restarts change nothing."""

    def __init__(
        self,
        dataset: Dataset,
        plan: Plan,
        seed: int,
        *,
        latents: LatentSource | None = None,
        texts: TextCache | None = None,
        batches_per_step: int = 1,
        steps: int = 0,
    ) -> None:
        """Without `latents` batches hold pixels; without `texts` they hold captions only.

        batches_per_step: micro-batches times processes, and steps: of the whole training, for the caption warm-up.
        """
        self.dataset = dataset
        self.plan = plan
        self._seed = seed
        self._latents = latents
        self._texts = texts
        self._batches_per_step = batches_per_step
        self._steps = steps
        self._constants: dict[int, _Constant] = {}

    @property
    def batch_size(self) -> int:
        """The most images that a batch can hold."""
        return max(group.batch_size for group in self.dataset.groups)

    def batch(self, index: int) -> Batch:
        """Micro-batch `index` of the endless stream, on the CPU. Raises UserError when a file cannot be read."""
        return self.with_text(self.without_text(index))

    def with_text(self, batch: Batch) -> Batch:
        """The batch with the cached states of its captions, where there is a cache and they are not there yet."""
        if self._texts is None or batch.text is not None:
            return batch
        return replace(batch, text=self._texts.states(batch.captions))

    def without_text(self, index: int) -> Batch:
        """The batch as far as worker threads may make it: with text only where none has to be encoded."""
        planned = self.plan.batch(index)
        items = [self.dataset.items[entry.item] for entry in planned.entries]
        samples = [TrainingSample(self._seed, planned.epoch, entry) for entry in planned.entries]
        moment = Moment(planned.epoch, index // self._batches_per_step, self._steps)
        constants = [self._constant(entry.item) for entry in planned.entries]
        captions = tuple(
            sample.caption(item, moment) if constant.caption is None else constant.caption
            for item, sample, constant in zip(items, samples, constants, strict=True)
        )
        chosen = [
            views.choose(item, sample.streams("view")) if constant.view is None else constant.view
            for item, sample, constant in zip(items, samples, constants, strict=True)
        ]
        latents, pixels, masks, shown = self._pictures(items, samples, chosen)
        return Batch(
            names=tuple(constant.name for constant in constants),
            captions=captions,
            geometry=_geometry(constants, [view.mirrored for view in chosen]),
            weights=torch.from_numpy(np.array([item.weight for item in items], np.float32)),
            latents=latents,
            pixels=pixels,
            text=self._texts.states(captions) if self._texts is not None and self._texts.has(captions) else None,
            mask=_masks(items, masks, self.dataset.rendering.cell),
            images=tuple(
                views.key(self._image_keys[entry.item], item, view)
                for entry, item, view in zip(planned.entries, items, chosen, strict=True)
            ),
            of_base=_of_base(items),
            shown=shown,
        )

    def states(self, captions: Sequence[str]) -> TextStates | None:
        """Of any captions, on the CPU; None where text is not cached."""
        return None if self._texts is None else self._texts.states(captions)

    @cached_property
    def _image_keys(self) -> list[str]:
        """Of each item: folder/file and size; images of folders of one name that would share it are numbered."""
        return [
            f"{name} {item.target[0]}x{item.target[1]}"
            for name, item in zip(holdout.distinct_names(self.dataset.items), self.dataset.items, strict=True)
        ]

    def _constant(self, index: int) -> _Constant:
        constant = self._constants.get(index)
        if constant is None:
            constant = self._constants[index] = _constant(self.dataset.items[index])
        return constant

    @property
    def captions_foreseen(self) -> bool:
        """Whether `possible_captions` are all captions that batches can hold."""
        return all(caption_pipeline.foreseen(item.captions, item.source.options) for item in self.dataset.items)

    def possible_captions(self) -> set[str]:
        """The captions that batches can hold, for the text cache; those that change each time cannot be foreseen."""
        found: set[str] = set()
        for item in self.dataset.items:
            found |= caption_pipeline.possible(item.captions, item.source.options)
        return found

    def _pictures(
        self, items: list[ImageItem], samples: list[TrainingSample], chosen: list[views.View]
    ) -> tuple[Tensor | None, Tensor | None, list[Tensor | None], Shown | None]:
        """Latents (B, C, h, w) or pixels (B, 3, H, W), the masks (h, w) uint8 where there are any, and what a model
        that fills pictures in is shown."""
        if self._latents is not None:
            variants = [Variant(s.entry.item, view.mirrored) for s, view in zip(samples, chosen, strict=True)]
            shown = self._cached_shown(self._latents, variants, items, samples) if self.dataset.hiding else None
            means = self._latents.means(variants)
            if means is not None:
                return means, None, [None] * len(items), shown
            stored = [self._latents.read(variant) for variant in variants]
            return _drawn(stored, samples, "posterior"), None, [one.mask for one in stored], shown
        pictures = [render(item, view, self.dataset.rendering) for item, view in zip(items, chosen, strict=True)]
        masks = [None if one.mask is None else torch.from_numpy(one.mask.copy()) for one in pictures]
        shown = self._live_shown(pictures, items, samples) if self.dataset.hiding else None
        return None, torch.stack([one.tensor() for one in pictures]), masks, shown

    def _cached_shown(
        self, latents: LatentSource, variants: list[Variant], items: list[ImageItem], samples: list[TrainingSample]
    ) -> Shown:
        """With one of the areas that the cache has of each image."""
        counts = [hiding.count(item, self.dataset.hiding) for item in items]
        numbers = [s.streams("hidden")("number").randrange(n) for s, n in zip(samples, counts, strict=True)]
        stored = [latents.read(replace(v, hidden=n)) for v, n in zip(variants, numbers, strict=True)]
        masks = [one.mask for one in stored if one.mask is not None]
        return Shown(torch.stack(masks).unsqueeze(1) / 255, latents=_drawn(stored, samples, "hidden posterior"))

    def _live_shown(self, pictures: list[Rendered], items: list[ImageItem], samples: list[TrainingSample]) -> Shown:
        """With an area of its own in each presentation."""
        cell = self.dataset.rendering.cell
        partly = [
            hiding.partly(picture, item, cell, sample.streams("hidden")("area"))
            for picture, item, sample in zip(pictures, items, samples, strict=True)
        ]
        masks = [torch.from_numpy(one.mask.copy()) for one in partly if one.mask is not None]
        return Shown(torch.stack(masks).unsqueeze(1) / 255, pixels=torch.stack([one.tensor() for one in partly]))


def _drawn(stored: Sequence[Stored], samples: Sequence[TrainingSample], purpose: str) -> Tensor:
    """(B, C, h, w): the means, or a sample of each posterior that was kept."""
    return torch.stack(
        [
            one.mean if one.std is None else encode.draw(one, sample.generator(purpose))
            for one, sample in zip(stored, samples, strict=True)
        ]
    )


@dataclass(frozen=True, slots=True)
class _Constant:
    """What is the same in every presentation of an image: kept, since working it out costs more than its latents."""

    name: str
    caption: str | None  # None where it varies
    view: views.View | None  # None where it varies
    geometry: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # original, crop, target, as `Geometry` has them
    mirrored: tuple[int, int]  # the crop of the mirror image


def _constant(item: ImageItem) -> _Constant:
    left, top, right, _ = item.crop_ltrb
    options = item.source.options
    caption = None
    if not caption_pipeline.varies(item.captions, options):
        (caption,) = caption_pipeline.possible(item.captions, options)
    return _Constant(
        name=printable(item.path),
        caption=caption,
        view=None if views.varies(options) else views.plain(item),
        geometry=(item.original[::-1], (int(top), int(left)), item.target[::-1]),
        mirrored=(int(top), int(item.target[0] - right)),
    )


def _geometry(constants: Sequence[_Constant], mirrored: Sequence[bool]) -> Geometry:
    """(B, 2) each. Made as one array: torch.tensor of nested lists costs more than the rest of the batch."""
    rows = np.array([constant.geometry for constant in constants], np.int64)  # (B, 3, 2)
    for row, (constant, turned) in enumerate(zip(constants, mirrored, strict=True)):
        if turned:
            rows[row, 1] = constant.mirrored
    original, crop, target = torch.from_numpy(rows).unbind(1)
    return Geometry(original.contiguous(), crop.contiguous(), target.contiguous())


def _of_base(items: Sequence[ImageItem]) -> Tensor | None:
    if not any(item.source.of_base for item in items):
        return None
    return torch.tensor([item.source.of_base for item in items])


def _masks(items: list[ImageItem], masks: list[Tensor | None], cell: int) -> Tensor | None:
    """(B, 1, h, w) float32: 1 inside, `mask_outside` outside, 1 everywhere for images that have none."""
    if all(mask is None for mask in masks):
        return None
    width, height = items[0].target
    rows = []
    for item, mask in zip(items, masks, strict=True):
        outside = item.source.options.mask_outside
        inside = torch.ones(height // cell, width // cell) if mask is None else mask.float() / 255
        rows.append(outside + (1 - outside) * inside)
    return torch.stack(rows).unsqueeze(1)
