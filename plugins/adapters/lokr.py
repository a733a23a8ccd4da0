"""LoKr: the Kronecker product of a small and a large matrix is added to a layer's weight (arXiv 2309.14859)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from plugins.adapters._lycoris import Product, tucker

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.batch import AdapterDropout, AdapterWeights


_WHOLE = 2**20  # a rank from which on every second factor is whole


class LokrSettings(BaseModel):
    """How a layer's sides are split."""

    model_config = ConfigDict(extra="forbid", strict=True)

    factor: int = Field(-1, ge=-1, description="Size of the first factor's sides at most; -1 = the nearest to a square")
    decompose_both: bool = Field(False, description="the first factor is a product too, where the rank is small enough")
    full_matrix: bool = Field(False, description="the second factor is whole, whatever the rank; alpha counts no more")

    @field_validator("factor")
    @classmethod
    def _divides(cls, factor: int) -> int:
        if factor == 0:
            raise ValueError("expected -1, or at least 1")
        return factor


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
    Settings: ClassVar[type[BaseModel] | None] = LokrSettings

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
    def config(cls, common: Mapping[str, Any], dropout: AdapterDropout, settings: Any) -> Any:
        if settings.full_matrix:
            common = {**common, "rank_pattern": dict.fromkeys(common["rank_pattern"], _WHOLE)}
        made = super().config(common, dropout, settings)
        made.decompose_factor, made.decompose_both = settings.factor, settings.decompose_both
        return made

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
