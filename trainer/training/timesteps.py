"""Draws the timestep of each sample from a distribution that can be shaped, shifted and stratified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

Distribution = Literal["uniform", "logit_normal", "sigmoid", "beta", "weights"]
EDGE = 1e-7  # keeps quantiles inside the open interval where the normal law has none


@dataclass(frozen=True)
class TimestepSampler:
    """Whole timesteps in low..high-1, or any times between low and high of a continuous schedule. A draw is a quantile:
    uniform u -> share of the range -> timestep.

    logit_normal: sigmoid(mean + std * N(0, 1)), Esser et al. 2024 (arXiv 2403.03206) section 3.1; sigmoid: the same
    with mean 0, as sd-scripts calls it; beta: Beta(alpha, beta); weights: one relative weight per equal slice.
    shift moves the share s to shift * s / (1 + (shift - 1) * s) (the same paper, equation 23): above 1 towards noise.
    """

    low: int = 0
    high: int = 1000
    distribution: Distribution = "uniform"
    mean: float = 0.0
    std: float = 1.0
    alpha: float = 1.0
    beta: float = 1.0
    weights: Sequence[float] = ()
    shift: float = 1.0
    stratified: bool = False
    continuous: bool = False

    def draw(self, batch_size: int, stream: Generator) -> Tensor:
        """(batch_size,) long, or float32 for a continuous schedule, on the CPU; `stream` must be a CPU generator."""
        return self.at(self._uniform(batch_size, stream))

    def at(self, quantiles: Tensor) -> Tensor:
        """The timesteps at quantiles in [0, 1), same shape: what a plot of the distribution needs."""
        share = self._share(quantiles.double())
        shifted = self.shift * share / (1 + (self.shift - 1) * share)
        times = self.low + shifted * (self.high - self.low)
        return times.float() if self.continuous else times.long().clamp(self.low, self.high - 1)

    def _uniform(self, batch_size: int, stream: Generator) -> Tensor:
        """(batch_size,) in [0, 1): independent, or one in each of batch_size equal slices (less variance)."""
        drawn = torch.rand(batch_size, generator=stream, dtype=torch.float64)
        if not self.stratified:
            return drawn
        return (torch.randperm(batch_size, generator=stream) + drawn) / batch_size

    def _share(self, u: Tensor) -> Tensor:
        """The quantile function of the distribution on [0, 1]."""
        if self.distribution == "uniform":
            return u
        if self.distribution == "weights":
            return self._share_of_table(u)
        inside = u.clamp(EDGE, 1 - EDGE)
        if self.distribution == "beta":
            from scipy.special import betaincinv  # takes a while

            return torch.from_numpy(betaincinv(self.alpha, self.beta, inside.numpy()))
        mean = self.mean if self.distribution == "logit_normal" else 0.0
        return torch.sigmoid(mean + self.std * torch.special.ndtri(inside))

    def _share_of_table(self, u: Tensor) -> Tensor:
        """Picks a slice by its weight; inside a slice all places are equally likely."""
        weights = torch.tensor(list(self.weights), dtype=torch.float64)
        edges = torch.cat([weights.new_zeros(1), (weights / weights.sum()).cumsum(0)])
        piece = (torch.searchsorted(edges, u, right=True) - 1).clamp(0, len(weights) - 1)
        inside = (u - edges[piece]) / (edges[piece + 1] - edges[piece]).clamp_min(1e-300)
        return (piece + inside.clamp(0, 1)) / len(weights)
