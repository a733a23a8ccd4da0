"""Draws the noise of a batch: plain Gaussian, then every stage in the order of the phases."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Generator, Tensor

from trainer.batch import NoiseContext, NoiseDraw
from trainer.protocols import PHASES, NoiseStage
from trainer.randomness import derive, generator


@dataclass(frozen=True)
class Streams:
    """The random streams of one micro-batch: one independent generator per purpose."""

    seed: int
    step: int
    micro_batch: int
    rank: int
    device: torch.device

    def generator(self, purpose: str) -> Generator:
        return generator(self.seed, purpose, self.step, self.micro_batch, self.rank, device=self.device)

    def on_cpu(self, purpose: str) -> Generator:
        """For draws of one number per sample, which are cheaper there and the same on every device."""
        return generator(self.seed, purpose, self.step, self.micro_batch, self.rank)

    def seed_networks(self) -> None:
        """Sets torch's own stream, from which dropout draws inside the networks: a function of the step, too."""
        torch.manual_seed(derive(self.seed, "networks", self.step, self.micro_batch, self.rank))


def gaussian(like: Tensor, stream: Generator) -> Tensor:
    """Plain N(0, I) of the shape of `like`, float32, on its device, drawn where the generator lives."""
    drawn = torch.randn(like.shape, generator=stream, device=stream.device, dtype=torch.float32)
    return drawn.to(like.device)


def stage_seed(seed: int, name: str) -> int:
    """Of a stage, for draws that are the same in every step of a run."""
    return derive(seed, f"noise.{name}.fixed")


class Pool(Protocol):
    """trainer.training.pool.NoisePool."""

    def draw(self, streams: Streams) -> NoiseDraw: ...


class NoiseChain:
    """The stages of a run in the order pair -> shape -> perturb, whatever their order in the file."""

    def __init__(self, stages: Mapping[str, NoiseStage]) -> None:
        self.pool: Pool | None = None  # takes the place of the pairing stage where that looks beyond the micro-batch
        self.stages = dict(sorted(stages.items(), key=lambda item: (PHASES.index(item[1].phase), item[0])))

    @property
    def asks_network(self) -> bool:
        return any(stage.network for stage in self.stages.values())

    @property
    def remembering(self) -> dict[str, NoiseStage]:
        """The stages whose state belongs to that of the run, by their keys."""
        return {f"noise.{name}": stage for name, stage in self.stages.items() if stage.remembers}

    @contextmanager
    def unremembered(self) -> Iterator[None]:
        """What is drawn inside changes no stage."""
        before = [(stage, copy.deepcopy(stage.state_dict())) for stage in self.remembering.values()]
        try:
            yield
        finally:
            for stage, state in before:
                stage.load_state_dict(state)

    @torch.no_grad()
    def draw(
        self,
        clean: Tensor,
        timesteps: Tensor,
        streams: Streams,
        *,
        captions: Sequence[str] = (),
        images: Sequence[str] = (),
        losses: Callable[[Tensor], Tensor] | None = None,
    ) -> NoiseDraw:
        """The arguments are told in trainer.batch.NoiseContext. Each stage has a stream of its own."""
        plain = gaussian(clean, streams.generator("noise"))
        draw = NoiseDraw(target=plain, mixed=plain)
        for name, stage in self.stages.items():
            if self.pool is not None and stage.phase == "pair":
                draw = self.pool.draw(streams)
                continue
            own, seed = streams.generator(f"noise.{name}"), stage_seed(streams.seed, name)
            context = NoiseContext(clean, timesteps, own, tuple(captions), tuple(images), seed)
            draw = stage(draw, replace(context, losses=losses) if stage.network else context)
        return draw
