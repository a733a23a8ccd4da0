"""Keeps the change that each LoRA adapter makes below a length, as `scale_weight_norms` of kohya's sd-scripts does."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from trainer.batch import AdapterWeights


class NormLimit:
    """Adapters whose scale * up @ down has a Frobenius norm above `limit` are shrunk to it, both factors alike.

    Works on all adapters of one shape at once and never waits for the device. The product is not formed:
    |U D|^2 = sum((U^T U) * (D D^T)), two small matrices of rank x rank.
    """

    def __init__(self, adapters: Iterable[AdapterWeights], limit: float) -> None:
        """adapters: live ones of the plain kind, with a down and an up matrix."""
        self._limit = limit
        alike: dict[tuple[torch.Size, torch.Size], list[AdapterWeights]] = {}
        for one in adapters:
            alike.setdefault((one.down.shape, one.up.shape), []).append(one)
        self._alike = list(alike.values())

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Shrinks what is too long. Returns how many adapters were, as a scalar on their device."""
        counts = [self._shrink(members) for members in self._alike]
        return torch.stack(counts).sum()

    def norms(self) -> list[Tensor]:
        """The norms of all adapters' changes, one tensor (adapters of a shape,) per shape."""
        return [_norms(members) for members in self._alike]

    def _shrink(self, members: list[AdapterWeights]) -> Tensor:
        norms = _norms(members)
        share = (self._limit / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1).sqrt()  # (adapters,)
        for factors in ([m.down for m in members], [m.up for m in members]):
            stacked = torch.stack(list(factors))
            scaled = stacked * share.view(-1, *[1] * (stacked.ndim - 1))
            torch._foreach_copy_(factors, list(scaled.unbind(0)))
        return (norms > self._limit).sum()


@torch.no_grad()
def _norms(members: list[AdapterWeights]) -> Tensor:
    down = torch.stack([m.down.flatten(1) for m in members])  # (adapters, rank, in)
    up = torch.stack([m.up.flatten(1) for m in members])  # (adapters, out, rank)
    squares = (up.mT @ up * (down @ down.mT)).sum((1, 2)).clamp(min=0)  # (adapters,)
    scales = [m.alpha / m.down.shape[0] for m in members]
    if len(set(scales)) == 1:  # the usual case, without a copy to the device
        return squares.sqrt() * scales[0]
    return torch.stack([root * scale for root, scale in zip(squares.sqrt().unbind(0), scales, strict=True)])
