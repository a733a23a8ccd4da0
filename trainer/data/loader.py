"""Makes batches: what the plan says, out of caches or image files."""

from __future__ import annotations

from random import Random

import torch

from trainer import randomness
from trainer.batch import Batch, Geometry
from trainer.data import caption_pipeline
from trainer.data.cache import Latents, TextCache, pixels_of
from trainer.data.caption_pipeline import Moment
from trainer.data.dataset import Dataset, Item
from trainer.data.images import printable
from trainer.data.plan import Entry, Plan


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
        """Micro-batch `index` of the endless stream, on the CPU. Raises BrokenImageError when a file cannot be read."""
        planned = self.plan.batch(index)
        items = [self.dataset.items[entry.item] for entry in planned.entries]
        moment = Moment(planned.epoch, index // self._batches_per_step, self._steps)
        captions = tuple(self._caption(entry, moment) for entry in planned.entries)
        latents = pixels = None
        if self._latents is None:
            pixels = torch.stack([pixels_of(item) for item in items])  # (B, 3, H, W)
        else:
            latents = torch.stack([self._latents.latents(entry.item) for entry in planned.entries])  # (B, C, h, w)
        return Batch(
            names=tuple(printable(item.path) for item in items),
            captions=captions,
            geometry=geometry(items),
            weights=torch.tensor([item.weight for item in items], dtype=torch.float32),
            latents=latents,
            pixels=pixels,
            text=None if self._texts is None else self._texts.states(captions),
        )

    def possible_captions(self) -> set[str]:
        """The captions that batches can hold, for the text cache; those that change each time cannot be foreseen."""
        found: set[str] = set()
        for item in self.dataset.items:
            found |= caption_pipeline.possible(item.captions, item.source.options)
        return found

    def _caption(self, entry: Entry, moment: Moment) -> str:
        item = self.dataset.items[entry.item]

        def streams(purpose: str) -> Random:
            return randomness.python_random(self._seed, f"caption {purpose}", moment.epoch, entry.item, entry.repeat)

        return caption_pipeline.final_caption(item.captions, item.source.options, streams, moment)


def geometry(items: list[Item]) -> Geometry:
    """What SDXL is told about sizes and crops, (B, 2) each, as (height, width) and (top, left)."""
    ltrb = [item.crop_ltrb for item in items]
    return Geometry(
        original=torch.tensor([(item.original[1], item.original[0]) for item in items]),
        crop=torch.tensor([(int(top), int(left)) for left, top, _, _ in ltrb]),
        target=torch.tensor([(item.target[1], item.target[0]) for item in items]),
    )
