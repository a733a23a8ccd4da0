"""Norm: LyCORIS' difference of a normalisation layer's weight and bias (`train_norm`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from plugins.adapters._kind import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.batch import AdapterWeights

WEIGHT, BIAS = "w_norm", "b_norm"


class Norm(Kind):
    """The difference itself."""

    title = "norm difference"
    leaves: ClassVar[tuple[str, ...]] = (WEIGHT,)
    needed: ClassVar[tuple[tuple[str, ...], ...]] = ((WEIGHT,),)
    extras: ClassVar[tuple[str, ...]] = (BIAS,)
    arguments: ClassVar[Mapping[str, str]] = {"train_norm": "True"}

    @classmethod
    def product(cls, factors: Mapping[str, Tensor]) -> Tensor:
        return factors[WEIGHT]

    @classmethod
    def bias_change(cls, weights: AdapterWeights) -> Tensor | None:
        found = weights.tensors.get(BIAS)
        return None if found is None else found.float()


PLUGIN = Norm
