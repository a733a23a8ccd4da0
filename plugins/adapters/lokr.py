"""LoKr: the Kronecker product of a small and a large matrix is added to a layer's weight (arXiv 2309.14859)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from plugins.adapters._lycoris import Product, tucker

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.batch import AdapterWeights


class Lokr(Product):
    """kron(w1, w2) (Yeh et al. 2023, section 3.2); each factor is whole or itself a product."""

    title = "LoKr"
    summary = "lokr puts most into fewest (read like loha)"
    leaves: ClassVar[tuple[str, ...]] = (
        "lokr_w1",
        "lokr_w1_a",
        "lokr_w1_b",
        "lokr_w2",
        "lokr_w2_a",
        "lokr_w2_b",
        "lokr_t2",
    )
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("lokr_w1", "lokr_w1_a"), ("lokr_w2", "lokr_w2_a"))
    trainable = leaves
    zero = ("lokr_w1", "lokr_w1_a")
    arguments: ClassVar[Mapping[str, str]] = {"algo": "lokr"}

    @classmethod
    def rank(cls, weights: AdapterWeights) -> int:
        """0 where both factors are whole, which are not scaled."""
        split = ("lokr_w1_b", "lokr_w2_b")
        return next((int(weights.tensors[name].shape[0]) for name in split if name in weights.tensors), 0)

    @classmethod
    def product(cls, factors: Mapping[str, Tensor]) -> Tensor:
        import torch

        small, large = _factor(factors, 1), _factor(factors, 2)
        return torch.kron(small.reshape(*small.shape, *(1,) * (large.ndim - 2)), large.contiguous())

    @classmethod
    def peft(cls) -> Any:
        from peft import LoKrConfig

        return LoKrConfig


def _factor(t: Mapping[str, Tensor], n: int) -> Tensor:
    if f"lokr_w{n}" in t:
        return t[f"lokr_w{n}"]
    out, inner = t[f"lokr_w{n}_a"], t[f"lokr_w{n}_b"]
    if f"lokr_t{n}" in t:
        return tucker(t[f"lokr_t{n}"], out, inner)
    return (out @ inner.flatten(1)).reshape(out.shape[0], *inner.shape[1:])


PLUGIN = Lokr
