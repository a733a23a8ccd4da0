"""BOFT: rotations of a layer's outputs in butterfly order (arXiv 2311.06243), as LyCORIS does. Read only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from plugins.adapters.oft import Oft

if TYPE_CHECKING:
    from torch import Tensor


class Boft(Oft):
    """Stage i mixes outputs that are 2^i half blocks apart."""

    title = "BOFT"
    arguments: ClassVar[Mapping[str, str]] = {"algo": "boft"}
    dimensions: ClassVar[int] = 4  # of the blocks (stages, number, n, n)

    @classmethod
    def turned(cls, whole: Tensor, rotations: Tensor) -> Tensor:
        """whole (out, ...), rotations (stages, k, n, n) with k * n = out."""
        import torch

        stages, k, n, _ = rotations.shape
        rows = whole.flatten(1) if whole.ndim > 1 else whole[:, None]  # (out, p)
        for stage in range(stages):
            apart = 2**stage * n // 2
            paired = rows.reshape(-1, 2, apart, rows.shape[1]).transpose(1, 2).reshape(k, n, -1)
            mixed = torch.einsum("bij,bjp->bip", rotations[stage], paired)
            rows = mixed.reshape(-1, apart, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)
        return rows.reshape(whole.shape)


PLUGIN = Boft
