"""A step that teaches the network to give the same clean picture at two neighbouring times of one path.

Song et al. 2023, arXiv 2303.01469 (consistency training, algorithm 3), and Song and Dhariwal 2023, arXiv 2310.14189
(its improved form).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer.batch import Batch, NoiseSchedule, sent
from trainer.protocols import Objective
from trainer.training.losses import masked_mean, weighted_mean
from trainer.training.network import Inputs, Predict
from trainer.training.noise import NoiseChain, Streams
from trainer.training.step import EncodeImages, StepResult, clean_latents, soundness
from trainer.training.timesteps import TimestepSampler


@dataclass(frozen=True)
class Growth:
    """How many intervals the way from picture to noise is cut into: from `begin` on they double, after equally many
    steps each time, until there are `end` (arXiv 2310.14189, whose N counts the ends of intervals)."""

    begin: int
    end: int
    steps: int  # of the whole run

    def intervals(self, finished: int) -> int:
        """In the step after `finished` ones."""
        return min(self.begin * 2 ** (finished // self.stay), self.end)

    @property
    def stay(self) -> int:
        """Steps from one doubling to the next."""
        return max(1, math.floor(self.steps / (math.log2(self.end // self.begin) + 1)))


@dataclass(frozen=True)
class Distance:
    """Between two pictures, from the mean of squared differences; 0 where they are equal.

    pseudo_huber: sqrt(mean + c^2) - c, which is the one of arXiv 2310.14189 with its c = 0.00054 sqrt(D),
    over sqrt(D) for D numbers: it does not depend on the size of pictures.
    """

    kind: Literal["pseudo_huber", "l2"] = "pseudo_huber"
    c: float = 0.00054

    def __call__(self, one: Tensor, other: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, h, w) twice -> (B,). A mask (B, 1, h, w) scales each cell's squared difference."""
        squared = masked_mean((one - other) ** 2, mask)
        if self.kind == "l2":
            return squared
        return squared / ((squared + self.c**2).sqrt() + self.c)  # the same as above, without cancellation


@dataclass(frozen=True)
class Neighbours:
    """Two times for each sample that follow each other in a discretisation."""

    upper: Tensor  # (B,)
    lower: Tensor  # (B,)
    is_first: Tensor  # (B,) bool: the lower one is the first of all
    interval: Tensor  # (B,) float32: the time between them, as a share of all times


def neighbours(schedule: NoiseSchedule, drawn: Tensor, intervals: int) -> Neighbours:
    """The ends of those intervals of equal length that the drawn times (B,) lie in."""
    index = (drawn.double() * intervals / schedule.steps).floor().clamp(max=intervals - 1)
    lower, upper = (schedule.spread((index + i) / intervals) for i in (0, 1))
    whole = schedule.spread(torch.ones(1, dtype=torch.float64))
    return Neighbours(upper, lower, index == 0, (upper - lower).float() / whole)


@dataclass(frozen=True)
class ConsistencyStep:
    """What the network says of the clean picture at the upper time is held against what is said at the lower one, about
    the same picture with the same noise; at the first time the input itself is the answer."""

    network: Predict
    teaching: Callable[[], AbstractContextManager[object]]  # inside, the network has the weights that give the target
    encode_images: EncodeImages
    objective: Objective
    noise: NoiseChain
    timesteps: TimestepSampler
    growth: Growth
    distance: Distance
    by_interval: bool  # divides by the time between the two

    def held(self, batch: Batch) -> AbstractContextManager[None]:
        return nullcontext()

    def __call__(self, batch: Batch, streams: Streams) -> StepResult:
        clean = clean_latents(batch, self.encode_images)
        drawn = self.timesteps.draw(len(batch), streams.on_cpu("timesteps"))
        found = neighbours(self.objective.schedule, drawn, self.growth.intervals(streams.step))
        upper, lower, first, interval = (
            sent(one, clean.device) for one in (found.upper, found.lower, found.is_first, found.interval)
        )
        noise = self.noise.draw(clean, upper, streams, captions=batch.captions, images=batch.images).mixed
        with torch.no_grad(), self.teaching():  # first: a backward pass needs the weights as its forward pass had them
            streams.seed_networks()  # the same dropout at both times
            before = self.objective.noisy(clean, noise, lower)
            target = torch.where(first.view(-1, 1, 1, 1), before, self._picture(batch, before, lower))
        streams.seed_networks()
        picture = self._picture(batch, self.objective.noisy(clean, noise, upper), upper)
        losses = self.distance(picture, target, batch.mask)
        weights = batch.weights / interval if self.by_interval else batch.weights
        return StepResult(weighted_mean(losses, weights), losses.detach(), upper, sound=soundness(batch, clean))

    def _picture(self, batch: Batch, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The consistency function: what the network's answer says of the clean latents, (B, C, h, w) float32."""
        answer = self.network(*Inputs(noisy, timesteps, batch.text, batch.captions, batch.geometry, batch.shown))
        return self.objective.separated(noisy, answer.float(), timesteps)[0]
