"""The means over square blocks of latents, as coordinates: what a coarse comparison sees of a noise.

Of the numbers of a latent, (C, h, w), the means over blocks of f x f are ceil(h / f) * ceil(w / f) * C directions.
Scaled to length 1 they are coordinates of plain noise like any others: independent, standard normal, and independent of
what the means do not tell. So the nearest of k noises by their block means is plain noise whose coordinates along these
directions are those of the nearest of k drawn in that smaller space; the rest of it is as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Blocks:
    """Blocks of `size` x `size` in latents (B, ..., h, w); those at the edges hold what is left."""

    shape: torch.Size
    size: int

    def coordinates(self, rows: Tensor) -> Tensor:
        """(..., D) -> (..., d): sums over blocks, divided by the square root of the numbers in each."""
        height, width = self.shape[-2:]
        padded = F.pad(rows.unflatten(-1, self.shape[1:]), (0, -width % self.size, 0, -height % self.size))
        blocks = padded.unflatten(-1, (-1, self.size)).unflatten(-3, (-1, self.size)).sum(dim=(-3, -1))
        return (blocks / self._roots(rows)).flatten(-len(self.shape) + 1)

    def spread(self, coordinates: Tensor) -> Tensor:
        """(..., d) -> (..., D): the part of a noise that has these coordinates."""
        height, width = self.shape[-2:]
        roots = self._roots(coordinates)
        blocks = coordinates.unflatten(-1, (*self.shape[1:-2], *roots.shape)) / roots
        whole = blocks.repeat_interleave(self.size, dim=-2).repeat_interleave(self.size, dim=-1)
        return whole[..., :height, :width].flatten(-len(self.shape) + 1)

    def _roots(self, like: Tensor) -> Tensor:
        """Square roots of the numbers in each block, (blocks down, blocks across); made where they are used."""
        down, across = (
            (side - torch.arange(0, side, self.size, device=like.device)).clamp_(max=self.size)
            for side in self.shape[-2:]
        )
        return (down[:, None] * across).to(like.dtype).sqrt_()
