"""What every kind of adapter is made of: the defaults of all that a kind may say about itself.

torch is imported where it is used: reading a config asks for the kinds, and must not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Tensor

    from trainer.batch import AdapterDropout, AdapterWeights

MAGNITUDE = "dora_scale"  # LyCORIS' name of the lengths that DoRA learns
SPARSE = ("bias_indices", "bias_values", "bias_size")  # what LyCORIS' extraction adds to a product, entry by entry
BIAS = "diff_b"  # the change of a layer's bias, which may stand beside any kind


class Kind:
    """Base of the kinds. What a kind overrides is told in trainer.protocols.AdapterKind, whose defaults stand here.

    A kind gives `title`, `summary`, `leaves`, `needed` and `product`, and `config` if it trains.
    """

    title: ClassVar[str]
    summary: ClassVar[str] = ""
    leaves: ClassVar[tuple[str, ...]]
    needed: ClassVar[tuple[tuple[str, ...], ...]]  # of each group of names one must be there
    extras: ClassVar[tuple[str, ...]] = (MAGNITUDE, BIAS, *SPARSE)  # what may stand beside the leaves
    trains: ClassVar[bool] = False
    trainable: ClassVar[tuple[str, ...]] = ()
    plain: ClassVar[bool] = False
    zero: ClassVar[tuple[str, ...]] = ()
    given: ClassVar[tuple[str, ...]] = ()
    attributes: ClassVar[Mapping[str, str]] = {}
    skips_whole: ClassVar[bool] = False
    module: ClassVar[str] = "lycoris.kohya"
    arguments: ClassVar[Mapping[str, str]] = {}
    Settings: ClassVar[type[BaseModel] | None] = None

    @classmethod
    def claims(cls, tensors: Mapping[str, Tensor]) -> bool:
        names = set(tensors)
        return names <= {*cls.leaves, *cls.extras} and all(not names.isdisjoint(group) for group in cls.needed)

    @classmethod
    def rank(cls, weights: AdapterWeights) -> int:
        return 0

    @classmethod
    def scale(cls, weights: AdapterWeights) -> float:
        rank = cls.rank(weights)
        return weights.alpha / rank if rank else 1.0

    @classmethod
    def needs_base(cls, weights: AdapterWeights) -> bool:
        return MAGNITUDE in weights.tensors

    @classmethod
    def change(cls, weights: AdapterWeights, base: Tensor | None = None) -> Tensor:
        factors = {name: tensor.float() for name, tensor in weights.tensors.items()}
        change = cls.product(factors)
        if SPARSE[0] in factors:
            change = change + _entries(weights.tensors).reshape(change.shape)
        change = change * cls.scale(weights)
        if base is None:
            return change
        change = change.reshape(base.shape)
        if MAGNITUDE not in factors:
            return change
        from plugins.adapters._magnitude import turned

        return turned(base.float() + change, factors[MAGNITUDE]) - base.float()

    @classmethod
    def changes_weight(cls, weights: AdapterWeights) -> bool:
        return True

    @classmethod
    def bias_change(cls, weights: AdapterWeights) -> Tensor | None:
        found = weights.tensors.get(BIAS)
        return None if found is None else found.float()

    @classmethod
    def product(cls, factors: Mapping[str, Tensor]) -> Tensor:
        """The change before it is scaled, from factors in float32."""
        raise NotImplementedError

    @classmethod
    def check(cls, tensors: Mapping[str, Tensor]) -> None:
        import torch

        cls.product({name: torch.empty(tensor.shape, device="meta") for name, tensor in tensors.items()})

    @classmethod
    def problems(cls, dropout: AdapterDropout) -> Iterable[str]:
        return ()

    @classmethod
    def config(cls, common: Mapping[str, Any], dropout: AdapterDropout, settings: Any) -> Any:
        raise NotImplementedError

    @classmethod
    def finish(cls, layer: Any, dropout: AdapterDropout) -> None:
        return


def _entries(tensors: Mapping[str, Tensor]) -> Tensor:
    """LyCORIS' few further entries of the change, (out, the rest)."""
    import torch

    indices, values, size = (tensors[name] for name in SPARSE)
    return torch.sparse_coo_tensor(
        indices.long(), values.float(), [int(n) for n in size], check_invariants=True
    ).to_dense()
