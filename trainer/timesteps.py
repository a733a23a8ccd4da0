"""Draws the timestep of each sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class UniformTimesteps:
    """Whole timesteps, each of low..high-1 equally likely."""

    low: int
    high: int

    def draw(self, batch_size: int, stream: Generator) -> Tensor:
        """(batch_size,) long, on the generator's device."""
        return torch.randint(self.low, self.high, (batch_size,), generator=stream, device=stream.device)
