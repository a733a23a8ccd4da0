"""Makes batches: what the plan says, out of caches or image files."""

from __future__ import annotations

from collections.abc import Sequence

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

    def batch(self, index: int) -> Batch:
        """Micro-batch `index` of the endless stream, on the CPU. Raises UserError when a file cannot be read."""
        planned = self.plan.batch(index)
        items = [self.dataset.items[entry.item] for entry in planned.entries]
        samples = [Sample(self._seed, planned.epoch, entry) for entry in planned.entries]
        moment = Moment(planned.epoch, index // self._batches_per_step, self._steps)
        captions = tuple(sample.caption(item, moment) for item, sample in zip(items, samples, strict=True))
        chosen = [views.choose(item, sample.streams("view")) for item, sample in zip(items, samples, strict=True)]
        latents, pixels, masks = self._pictures(items, samples, chosen)
        return Batch(
            names=tuple(printable(item.path) for item in items),
            captions=captions,
            geometry=geometry(items, [view.mirrored for view in chosen]),
            weights=torch.tensor([item.weight for item in items], dtype=torch.float32),
            latents=latents,
            pixels=pixels,
            text=None if self._texts is None else self._texts.states(captions),
            mask=_masks(items, masks, self.dataset.rendering.cell),
        )

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
            stored = [self._latents.read(variant) for variant in variants]
            drawn = [encode.draw(s, sample.generator("posterior")) for s, sample in zip(stored, samples, strict=True)]
            return torch.stack(drawn), None, [one.mask for one in stored]
        shown = [render(item, view, self.dataset.rendering) for item, view in zip(items, chosen, strict=True)]
        masks = [None if one.mask is None else torch.from_numpy(one.mask.copy()) for one in shown]
        return None, torch.stack([one.tensor() for one in shown]), masks


def geometry(items: Sequence[Item], mirrored: Sequence[bool]) -> Geometry:
    """What SDXL is told about sizes and crops, (B, 2) each, as (height, width) and (top, left)."""
    corners = []
    for item, turned in zip(items, mirrored, strict=True):
        left, top, right, _ = item.crop_ltrb
        corners.append((int(top), int(item.target[0] - right if turned else left)))
    return Geometry(
        original=torch.tensor([(item.original[1], item.original[0]) for item in items]),
        crop=torch.tensor(corners),
        target=torch.tensor([(item.target[1], item.target[0]) for item in items]),
    )


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
