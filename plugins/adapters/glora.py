"""GLoRA: a low-rank change that is partly made of the layer's own weight (arXiv 2306.07967). Read only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from plugins.adapters._kind import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.batch import AdapterWeights

_FACTORS = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")
_MIDDLE = "bm.weight"  # the kernel of a convolution in Tucker form, between b1 and b2


class Glora(Kind):
    """W a1 a2 + b1 b2 as LyCORIS has it today; files of before its version 2.2 hold each factor transposed."""

    title = "GLoRA"
    leaves: ClassVar[tuple[str, ...]] = (*_FACTORS, _MIDDLE)
    needed: ClassVar[tuple[tuple[str, ...], ...]] = tuple((name,) for name in _FACTORS)
    extras: ClassVar[tuple[str, ...]] = ()
    arguments: ClassVar[Mapping[str, str]] = {"algo": "glora"}

    @classmethod
    def rank(cls, weights: AdapterWeights) -> int:
        return int(weights.tensors["a1.weight"].shape[0 if _is_old(weights.tensors) else 1])

    @classmethod
    def needs_base(cls, weights: AdapterWeights) -> bool:
        return True

    @classmethod
    def check(cls, tensors: Mapping[str, Tensor]) -> None:
        _is_old(tensors)

    @classmethod
    def change(cls, weights: AdapterWeights, base: Tensor | None = None) -> Tensor:
        import torch

        assert base is not None
        a1, a2, b1, b2 = (weights.tensors[name].float().flatten(1) for name in _FACTORS)
        if _is_old(weights.tensors):
            a1, a2, b1, b2 = a2, a1, b2, b1
        whole = base.float()
        turned = (whole.transpose(1, -1) @ (a1 @ a2)).transpose(1, -1)  # over the inputs, each kernel cell by itself
        if _MIDDLE in weights.tensors:
            return (turned + torch.einsum("rskl,or,si->oikl", weights.tensors[_MIDDLE].float(), b1, b2)) * cls.scale(
                weights
            )
        return (turned + (b1 @ b2).reshape(whole.shape)) * cls.scale(weights)


def _is_old(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the factors are as before; today's where both would do. Raises RuntimeError where neither does."""
    a1, a2, b1, b2 = (tensors[name].shape for name in _FACTORS)
    if a1[1] == a2[0] == b1[1] == b2[0]:
        return False
    if a1[0] == a2[1] == b1[0] == b2[1]:
        return True
    raise RuntimeError("the ranks of the four factors differ")


PLUGIN = Glora
