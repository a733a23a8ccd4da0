"""Batches without images: which pair of prompts each of them stands for, its size, and how far it is denoised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainer.batch import Batch, Contrast, Geometry, NoiseSchedule, TextStates
from trainer.config.schema.slider import PromptPair
from trainer.data.cache.memory import TextCache
from trainer.data.dataset import Size
from trainer.data.pictures.files import printable
from trainer.errors import UserError
from trainer.randomness import generator, python_random
from trainer.training.timesteps import TimestepSampler

STEP = 64  # pixels between sizes that are drawn
LOOKED_AT = 512  # batches, for the largest one
MOST_LARGER = 3.0  # than the picture: what it may be said to be cut from


@dataclass(frozen=True)
class Begun:
    """One batch: pictures that are begun out of noise."""

    pair: int
    size: Size
    denoised: int  # steps, from 1 to all but one

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]


class PromptPlan:
    """Each epoch has every pair once, in an order of its own, all of it from the seed and the index."""

    def __init__(
        self, pairs: Sequence[PromptPair], seed: int, steps: int, timesteps: TimestepSampler, schedule: NoiseSchedule
    ) -> None:
        """steps: of a whole denoising; timesteps: from which law the place where it ends is drawn."""
        self.pairs = tuple(pairs)
        self.batches_per_epoch = len(self.pairs)
        self._seed, self._steps = seed, steps
        self._timesteps, self._schedule = timesteps, schedule

    def begun(self, index: int) -> Begun:
        epoch, position = divmod(index, self.batches_per_epoch)
        order = list(range(self.batches_per_epoch))
        python_random(self._seed, "order", epoch).shuffle(order)
        pair = self.pairs[order[position]]
        size = pair.size
        if pair.dynamic_resolution:
            random = python_random(self._seed, "sizes", index)
            smallest = max(1, size[0] // 2 // STEP)
            size = (STEP * random.randint(smallest, size[0] // STEP), STEP * random.randint(smallest, size[0] // STEP))
        return Begun(order[position], size, self._denoised(index))

    def _denoised(self, index: int) -> int:
        """With timesteps that are uniform, each number from 1 to all steps but one is equally likely."""
        drawn = float(self._timesteps.draw(1, generator(self._seed, "timesteps", index)))
        share = (drawn + (0 if self._schedule.continuous else 1)) / self._schedule.steps
        return min(1 + int((1 - share) * (self._steps - 1)), self._steps - 1)

    def shapes(self) -> set[tuple[int, Size]]:
        found = set()
        for pair in self.pairs:
            smallest = max(1, pair.size[0] // 2 // STEP)
            sides = [STEP * n for n in range(smallest, pair.size[0] // STEP + 1)] if pair.dynamic_resolution else []
            found |= {(pair.batch_size, size) for size in ([(w, h) for w in sides for h in sides] or [pair.size])}
        return found

    def largest(self) -> int:
        def needs(index: int) -> tuple[int, int]:
            begun = self.begun(index)
            return begun.pixels * self.pairs[begun.pair].batch_size, begun.denoised

        return max(range(LOOKED_AT), key=needs)

    def describe(self, index: int) -> str:
        begun = self.begun(index)
        width, height = begun.size
        return f"{self.pairs[begun.pair].batch_size} x {width}x{height}, {begun.denoised} steps denoised"


class PromptSource:
    """`batch(index)` is a pure function of the pairs, the seed and the index."""

    def __init__(self, plan: PromptPlan, seed: int, texts: TextCache, cell: int, channels: int) -> None:
        """texts: with every prompt prepared; cell: pixels of a latent's cell; channels: of a latent."""
        self.plan = plan
        self._seed, self._texts = seed, texts
        self._cell, self._channels = cell, channels

    @property
    def batch_size(self) -> int:
        return max(pair.batch_size for pair in self.plan.pairs)

    def states(self, captions: Sequence[str]) -> TextStates | None:
        return self._texts.states(captions)

    def batch(self, index: int) -> Batch:
        begun = self.plan.begun(index)
        pair = self.plan.pairs[begun.pair]
        count, (width, height) = pair.batch_size, begun.size
        others = {pair.concept, pair.unconditional, pair.start}
        return Batch(
            names=(printable(f"slider: {pair.title}"),) * count,
            captions=(pair.target,) * count,
            geometry=self._geometry(pair, begun, index),
            weights=torch.full((count,), pair.weight),
            latents=torch.zeros(count, self._channels, height // self._cell, width // self._cell),
            text=self._texts.states([pair.target] * count),
            contrast=Contrast(
                positive=pair.concept,
                unconditional=pair.unconditional,
                neutral=pair.start,
                guidance=pair.guidance,
                strength=pair.multiplier,
                denoised=begun.denoised,
                states={prompt: self._texts.states([prompt] * count) for prompt in sorted(others)},
            ),
        )

    def _geometry(self, pair: PromptPair, begun: Begun, index: int) -> Geometry:
        """Of a whole picture, or of a part of a larger one, as LECO draws it."""
        size = begun.size[::-1]
        original, corner = size, (0, 0)
        if pair.dynamic_crops:
            random = python_random(self._seed, "crops", index)
            larger = random.uniform(1, MOST_LARGER)
            original = (int(size[0] * larger), int(size[1] * larger))
            corner = (random.randint(0, original[0] - size[0]), random.randint(0, original[1] - size[1]))
        return Geometry(*(torch.tensor([one] * pair.batch_size) for one in (original, corner, size)))


def prompts_of(pairs: Sequence[PromptPair]) -> set[str]:
    """All that are asked about."""
    return {prompt for pair in pairs for prompt in (pair.target, pair.concept, pair.unconditional, pair.start)}


def refuse_sizes(pairs: Sequence[PromptPair], multiple: int) -> None:
    """Raises UserError for sizes that the base does not take. multiple: pixels that sides must divide by."""
    wrong = sorted({pair.size for pair in pairs if any(side % multiple for side in pair.size)})
    if wrong:
        raise UserError(
            f"slider: resolution {w}x{h}: this base takes sides that divide by {multiple}, such as "
            f"{max(multiple, w // multiple * multiple)}x{max(multiple, h // multiple * multiple)}."
            for w, h in wrong
        )
