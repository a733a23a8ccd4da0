"""Full: the whole difference of a layer's weight and bias, as LyCORIS' "full" and extracting tools write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from plugins.adapters._kind import BIAS, Kind

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.batch import AdapterWeights

WEIGHT = "diff"


class Full(Kind):
    """The difference itself; of the bias alone where that is all there is."""

    title = "full difference"
    leaves: ClassVar[tuple[str, ...]] = (WEIGHT,)
    needed: ClassVar[tuple[tuple[str, ...], ...]] = ((WEIGHT, BIAS),)
    extras: ClassVar[tuple[str, ...]] = (BIAS,)
    arguments: ClassVar[Mapping[str, str]] = {"algo": "full"}

    @classmethod
    def changes_weight(cls, weights: AdapterWeights) -> bool:
        return WEIGHT in weights.tensors

    @classmethod
    def product(cls, factors: Mapping[str, Tensor]) -> Tensor:
        return factors[WEIGHT] if WEIGHT in factors else factors[BIAS]


PLUGIN = Full
