"""Makes batches: what the plan says, out of caches or image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trainer.batch import Batch, Geometry
from trainer.data import caption_pipeline, encode, views
from trainer.data.cache import Latents, TextCache
from trainer.data.caption_pipeline import Moment
from trainer.data.dataset import Dataset, Item
from trainer.data.encode import Variant
from trainer.data.images import printable
from trainer.data.plan import Plan
from trainer.data.render import render
from trainer.data.sample import Sample


class Loader:
    """`batch(index)` is a pure function of the dataset, the seed and the index: workers and restarts change nothing."""

    def __init__(
        self,
        dataset: Dataset,
        plan: Plan,
        seed: int,
        *,
        latents: Latents | None = None,
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
        samples = [Sample(self._seed, planned.epoch, entry) for entry in planned.entries]
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
        latents, pixels, masks = self._pictures(items, samples, chosen)
        return Batch(
            names=tuple(constant.name for constant in constants),
            captions=captions,
            geometry=_geometry(constants, [view.mirrored for view in chosen]),
            weights=torch.from_numpy(np.array([item.weight for item in items], np.float32)),
            latents=latents,
            pixels=pixels,
            text=self._texts.states(captions) if self._texts is not None and self._texts.has(captions) else None,
            mask=_masks(items, masks, self.dataset.rendering.cell),
        )

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
        self, items: list[Item], samples: list[Sample], chosen: list[views.View]
    ) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
        """Latents (B, C, h, w) or pixels (B, 3, H, W), and the masks (h, w) uint8 where there are any."""
        if self._latents is not None:
            variants = [Variant(s.entry.item, view.mirrored) for s, view in zip(samples, chosen, strict=True)]
            means = self._latents.means(variants)
            if means is not None:
                return means, None, [None] * len(items)
            stored = [self._latents.read(variant) for variant in variants]
            drawn = [
                one.mean if one.std is None else encode.draw(one, sample.generator("posterior"))
                for one, sample in zip(stored, samples, strict=True)
            ]
            return torch.stack(drawn), None, [one.mask for one in stored]
        shown = [render(item, view, self.dataset.rendering) for item, view in zip(items, chosen, strict=True)]
        masks = [None if one.mask is None else torch.from_numpy(one.mask.copy()) for one in shown]
        return None, torch.stack([one.tensor() for one in shown]), masks


@dataclass(frozen=True, slots=True)
class _Constant:
    """What is the same in every presentation of an image: kept, since working it out costs more than its latents."""

    name: str
    caption: str | None  # None where it varies
    view: views.View | None  # None where it varies
    geometry: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # original, crop, target, as `Geometry` has them
    mirrored: tuple[int, int]  # the crop of the mirror image


def _constant(item: Item) -> _Constant:
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


def _masks(items: list[Item], masks: list[Tensor | None], cell: int) -> Tensor | None:
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
