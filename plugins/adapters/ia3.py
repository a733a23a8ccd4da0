"""IA3: each input or output of a layer is scaled (arXiv 2205.05638), as LyCORIS does. Read only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from plugins.adapters._kind import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.batch import AdapterWeights

WEIGHT, ON_INPUT = "weight", "on_input"


class Ia3(Kind):
    """The change is the layer's weight times a number for each input or output."""

    title = "IA3"
    leaves: ClassVar[tuple[str, ...]] = (WEIGHT, ON_INPUT)
    needed: ClassVar[tuple[tuple[str, ...], ...]] = ((WEIGHT,), (ON_INPUT,))
    extras: ClassVar[tuple[str, ...]] = ()
    arguments: ClassVar[Mapping[str, str]] = {"algo": "ia3"}

    @classmethod
    def needs_base(cls, weights: AdapterWeights) -> bool:
        return True

    @classmethod
    def check(cls, tensors: Mapping[str, Tensor]) -> None:
        if tensors[ON_INPUT].numel() != 1:
            raise RuntimeError("on_input is one number")

    @classmethod
    def change(cls, weights: AdapterWeights, base: Tensor | None = None) -> Tensor:
        assert base is not None
        axis = 1 if bool(weights.tensors[ON_INPUT]) else 0
        shape = [1] * base.ndim
        shape[axis] = -1
        scale = weights.tensors[WEIGHT].float().reshape(shape)
        if scale.shape[axis] != base.shape[axis]:
            raise RuntimeError(f"{scale.numel()} numbers for {base.shape[axis]} places")
        return base.float() * scale


PLUGIN = Ia3
