"""OFT: blocks of a layer's outputs are rotated (arXiv 2306.07280), as kohya and LyCORIS ("diag-oft") do. Read only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from plugins.adapters._kind import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.batch import AdapterWeights

BLOCKS, RESCALE = "oft_blocks", "rescale"


class Oft(Kind):
    """Each block of outputs is multiplied by its own rotation. alpha limits how far it turns: alpha times the outputs
    is the greatest length of what the rotations are made from, 0 = no limit."""

    title = "OFT"
    leaves: ClassVar[tuple[str, ...]] = (BLOCKS, RESCALE)
    needed: ClassVar[tuple[tuple[str, ...], ...]] = ((BLOCKS,),)
    extras: ClassVar[tuple[str, ...]] = ()
    arguments: ClassVar[Mapping[str, str]] = {"algo": "diag-oft"}
    dimensions: ClassVar[int] = 3  # of the blocks (number, n, n)

    @classmethod
    def claims(cls, tensors: Mapping[str, Tensor]) -> bool:
        return super().claims(tensors) and tensors[BLOCKS].ndim == cls.dimensions

    @classmethod
    def needs_base(cls, weights: AdapterWeights) -> bool:
        return True

    @classmethod
    def check(cls, tensors: Mapping[str, Tensor]) -> None:
        shape = tensors[BLOCKS].shape
        if shape[-1] != shape[-2]:
            raise RuntimeError("the blocks are not square")

    @classmethod
    def change(cls, weights: AdapterWeights, base: Tensor | None = None) -> Tensor:
        from plugins.adapters._rotation import rotations

        assert base is not None
        whole = base.float()
        made = rotations(weights.tensors[BLOCKS].float(), weights.alpha * whole.shape[0])
        turned = cls.turned(whole, made)
        if RESCALE in weights.tensors:
            turned = turned * weights.tensors[RESCALE].float().reshape(-1, *(1,) * (whole.ndim - 1))
        return turned - whole

    @classmethod
    def turned(cls, whole: Tensor, rotations: Tensor) -> Tensor:
        """whole (out, ...), rotations (k, n, n) with k * n = out."""
        import torch

        k, n, _ = rotations.shape
        blocks = whole.reshape(k, n, -1)
        return torch.einsum("knm,knp->kmp", rotations, blocks).reshape(whole.shape)


PLUGIN = Oft
