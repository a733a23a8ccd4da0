"""Draws with a consistency model: the clean picture at once, and again from less and less noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor

from trainer.batch import NoiseSchedule


@dataclass(frozen=True)
class Stepped:
    prev_sample: Tensor  # as diffusers' schedulers call it


class ConsistencySampler:
    """Song et al. 2023, arXiv 2303.01469, algorithm 1, by the interface of diffusers' schedulers, for a network that
    predicts v, or the flow on a schedule of continuous times. Its times are evenly apart, the first one pure noise."""

    init_noise_sigma = 1.0
    timesteps: Tensor  # (steps,)

    def __init__(self, schedule: NoiseSchedule) -> None:
        self._schedule = schedule

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        shares = torch.arange(num_inference_steps, 0, -1, dtype=torch.float64) / num_inference_steps
        self.timesteps = self._schedule.spread(shares).to(device)
        self._taken = 0

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        return sample

    def step(self, answer: Tensor, timestep: Tensor, sample: Tensor, generator: Sequence[Generator]) -> Stepped:
        """The clean picture that the answer stands for, with new noise as of the next time where there is one.
        generator: one for each picture."""
        alpha, sigma = self._scales(timestep)
        clean = (sample if self._schedule.continuous else alpha * sample) - sigma * answer
        self._taken += 1
        if self._taken == len(self.timesteps):
            return Stepped(clean)
        noise = randn_tensor(clean.shape, generator=list(generator), device=clean.device, dtype=clean.dtype)
        alpha, sigma = self._scales(self.timesteps[self._taken])
        return Stepped(alpha * clean + sigma * noise)

    def _scales(self, timestep: Tensor) -> tuple[float, float]:
        """(alpha, sigma): what is mixed at a time is alpha * picture + sigma * noise."""
        if self._schedule.alphas_cumprod is None:
            share = float(timestep) / self._schedule.steps
            return 1 - share, share
        left = float(self._schedule.alphas_cumprod[int(timestep)])
        return left**0.5, (1 - left) ** 0.5
