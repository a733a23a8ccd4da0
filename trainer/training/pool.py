"""Pairs noise for several micro-batches at once, where a pairing stage asks for a pool larger than its micro-batch.

A pool is a window of the run that is known beforehand, so every process and every resumed run forms the same ones.
Latents come from the cache: looking ahead costs no image twice. Across processes each one builds the step's pool from
its own copy of the cache and keeps its own rows, so that nothing is sent. Solving a pool of 512 takes some 20 ms, once
in 512 samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.batch import Batch, NoiseContext, NoiseDraw, sent
from trainer.protocols import NoiseStage
from trainer.randomness import generator
from trainer.training.noise import Streams, gaussian, stage_seed
from trainer.training.timesteps import TimestepSampler

Place = tuple[int, int, int]  # (step, micro-batch, rank)


@dataclass
class NoisePool:
    """Hands out the paired noise of each micro-batch; forms the pool when its first micro-batch is asked for."""

    name: str  # of the stage
    stage: NoiseStage
    size: int  # samples of this process ahead; 0 = the whole optimizer step, over accumulation and processes
    batch: Callable[[Place], Batch]  # any micro-batch of any process, with its latents on the device, float32
    timesteps: TimestepSampler
    accumulation: int
    ranks: int
    batch_size: int  # the largest of a micro-batch: how many of them make up `size`
    ready: dict[Place, NoiseDraw] = field(default_factory=dict)

    @torch.no_grad()
    def draw(self, streams: Streams) -> NoiseDraw:
        """The paired noise of one micro-batch of this process, on the device of its latents."""
        here = (streams.step, streams.micro_batch, streams.rank)
        if here not in self.ready:
            self.ready = self._form(streams)
        return self.ready.pop(here)

    def _form(self, streams: Streams) -> dict[Place, NoiseDraw]:
        window, places = self._window(streams)
        by_shape: dict[torch.Size, list[tuple[Place, Batch]]] = {}
        for place in places:
            batch = self.batch(place)
            by_shape.setdefault(_latents(batch).shape[1:], []).append((place, batch))
        stream = generator(streams.seed, f"noise.{self.name}.pool", window, self._owner(streams), device=streams.device)
        paired: dict[Place, NoiseDraw] = {}
        for members in by_shape.values():
            for place, draw in self._pair(members, streams, stream):
                if place[2] == streams.rank:
                    paired[place] = draw
        return paired

    def _pair(
        self, members: list[tuple[Place, Batch]], streams: Streams, stream: torch.Generator
    ) -> Iterator[tuple[Place, NoiseDraw]]:
        """One pool of equal shapes: the plain noise that each micro-batch would have had, paired jointly."""
        latents = [_latents(batch) for _, batch in members]
        clean = torch.cat(latents)
        own = [Streams(streams.seed, step, micro, rank, streams.device) for (step, micro, rank), _ in members]
        plain = torch.cat([gaussian(x, s.generator("noise")) for x, s in zip(latents, own, strict=True)])
        t = [self.timesteps.draw(len(x), s.on_cpu("timesteps")) for x, s in zip(latents, own, strict=True)]
        context = NoiseContext(
            clean,
            sent(torch.cat(t), clean.device),
            stream,
            captions=tuple(caption for _, batch in members for caption in batch.captions),
            images=tuple(image for _, batch in members for image in batch.images),
            seed=stage_seed(streams.seed, self.name),
        )
        draw = self.stage(NoiseDraw(plain, plain), context)
        sizes = [len(x) for x in latents]
        for (place, _), noise in zip(members, draw.target.split(sizes), strict=True):
            yield place, NoiseDraw(noise, noise)

    def _window(self, streams: Streams) -> tuple[int, list[Place]]:
        """The number of the pool that a micro-batch belongs to, and all its places."""
        if not self.size:
            step = streams.step
            return step, [(step, micro, rank) for micro in range(self.accumulation) for rank in range(self.ranks)]
        length = max(1, -(-self.size // self.batch_size))  # micro-batches
        window = (streams.step * self.accumulation + streams.micro_batch) // length
        numbers = range(window * length, (window + 1) * length)
        return window, [(*divmod(number, self.accumulation), streams.rank) for number in numbers]

    def _owner(self, streams: Streams) -> int:
        """A step's pool is one for all processes, so all draw the same; a pool ahead is each process's own."""
        return streams.rank if self.size else -1


def _latents(batch: Batch) -> Tensor:
    assert batch.latents is not None  # a pool beyond the micro-batch needs the cache
    return batch.latents
