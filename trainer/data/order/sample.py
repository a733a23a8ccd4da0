"""One presentation of an image: its own random streams, and what they make of its caption."""

from __future__ import annotations

from random import Random

import torch

from trainer import randomness
from trainer.data.captions.pipeline import Moment, Streams, final_caption
from trainer.data.dataset import ImageItem
from trainer.data.order.plan import Presentation


class TrainingSample:
    """The presentation `entry` in an epoch. Nothing but the seed, the epoch and the entry decides about its draws."""

    def __init__(self, seed: int, epoch: int, entry: Presentation) -> None:
        self.entry = entry
        self._key = (epoch, entry.item, entry.repeat)
        self._seed = seed

    def streams(self, kind: str) -> Streams:
        """The streams of one kind of choice, by purpose."""

        def stream(purpose: str) -> Random:
            return randomness.python_random(self._seed, f"{kind} {purpose}", *self._key)

        return stream

    def generator(self, purpose: str) -> torch.Generator:
        return randomness.generator(self._seed, purpose, *self._key)

    def caption(self, item: ImageItem, moment: Moment) -> str:
        """The caption that this presentation trains with."""
        return final_caption(item.captions, item.source.options, self.streams("caption"), moment)
