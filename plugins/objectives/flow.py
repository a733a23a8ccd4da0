"""Predict the flow from image to noise (rectified flow), for training from scratch or converting a base."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from plugins.objectives._schedule import per_sample
from trainer.batch import NoiseSchedule


class Flow:
    """x_t = (1 - s) * clean + s * noise, and the target noise - clean: Liu et al. 2022, arXiv 2209.03003.

    A base that is a flow has continuous times t from 0 to T, and s = t / T. Of a base with T discrete timesteps only
    their number counts: s = (t + 1) / T, so that the last one is pure noise.
    """

    aliases: ClassVar[tuple[str, ...]] = ("rectified_flow", "flow_prediction")
    diffusers_name: ClassVar[str] = "flow_prediction"
    modelspec_name: ClassVar[str] = "flow"
    predicts_noise: ClassVar[bool] = False

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(1 - s, s), each (B,) float32."""
        first = 0 if self.schedule.continuous else 1
        sigma = (timesteps.to(torch.float32) + first) / self.schedule.steps
        return 1 - sigma, sigma

    def noisy(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t, of the shape of `clean` (B, ...)."""
        alpha, sigma = (per_sample(scale, clean) for scale in self.signal_and_noise(timesteps))
        return alpha * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity of the straight path, noise - clean."""
        return noise - clean

    def separated(self, noisy: Tensor, target: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(clean, noise), each (B, ...): the two ends of the path."""
        alpha, sigma = (per_sample(scale, noisy) for scale in self.signal_and_noise(timesteps))
        return noisy - sigma * target, noisy + alpha * target


PLUGIN = Flow
