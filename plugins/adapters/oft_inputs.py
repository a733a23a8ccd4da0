"""OFT of a layer's inputs (arXiv 2306.07280, with the Cayley transform as a sum), as OneTrainer does. Read only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from plugins.adapters._kind import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.batch import AdapterWeights

BLOCKS, SCALED = "oft_R.weight", "oft_R.scaled_oft"


class OftOfInputs(Kind):
    """Each block of inputs is rotated; blocks hold the numbers above the diagonal, row by row. One block counts for
    all. A convolution's inputs are counted with its kernel's cells, and turn the other way than a linear layer's."""

    title = "OFT of inputs"
    leaves: ClassVar[tuple[str, ...]] = (BLOCKS, SCALED)
    needed: ClassVar[tuple[tuple[str, ...], ...]] = ((BLOCKS,),)
    extras: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def needs_base(cls, weights: AdapterWeights) -> bool:
        return True

    @classmethod
    def check(cls, tensors: Mapping[str, Tensor]) -> None:
        _side(tensors[BLOCKS])

    @classmethod
    def change(cls, weights: AdapterWeights, base: Tensor | None = None) -> Tensor:
        import torch

        assert base is not None
        numbers = weights.tensors[BLOCKS].float()
        side = _side(numbers)
        if SCALED in weights.tensors:
            numbers = numbers / (2 * math.sqrt(side - 1))
        whole = base.float()
        flat = whole.reshape(whole.shape[0], -1, side)  # (out, blocks, side)
        turned = _rotations(numbers, side)
        turned = (turned if base.ndim > 2 else turned.mT).expand(flat.shape[1], side, side)
        return torch.einsum("obk,bkc->obc", flat, turned).reshape(whole.shape) - whole


def _side(numbers: Tensor) -> int:
    """Of blocks (count, n (n - 1) / 2). Raises RuntimeError where there is no such n."""
    side = (1 + math.isqrt(1 + 8 * numbers.shape[-1])) // 2
    if numbers.ndim != 2 or side * (side - 1) // 2 != numbers.shape[-1]:
        raise RuntimeError("the blocks are not halves of square ones")
    return side


def _rotations(numbers: Tensor, side: int) -> Tensor:
    """(count, side, side): 1 + 2 (Q + Q^2 + Q^3) + Q^4, the beginning of (1 + Q)(1 - Q)^-1."""
    import torch

    rows, columns = torch.triu_indices(side, side, 1, device=numbers.device)
    half = numbers.new_zeros(len(numbers), side, side)
    half[:, rows, columns] = numbers
    q = half - half.mT
    square = q @ q
    return torch.eye(side, device=q.device) + 2 * (q + square + square @ q) + square @ square


PLUGIN = OftOfInputs
