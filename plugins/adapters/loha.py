"""LoHa: the elementwise product of two low-rank products is added to a layer's weight (arXiv 2108.06098)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from plugins.adapters._lycoris import Product, tucker

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.batch import AdapterWeights


class Loha(Product):
    """(w1_a @ w1_b) * (w2_a @ w2_b) (Hyeon-Woo et al. 2021, proposition 1)."""

    title = "LoHa"
    summary = "loha puts more into fewer numbers (right in ComfyUI, A1111 and Forge; diffusers refuses the file)"
    leaves: ClassVar[tuple[str, ...]] = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("hada_w1_a",), ("hada_w1_b",), ("hada_w2_a",), ("hada_w2_b",))
    trainable = leaves
    zero = ("hada_w2_b",)
    arguments: ClassVar[Mapping[str, str]] = {"algo": "loha"}

    @classmethod
    def rank(cls, weights: AdapterWeights) -> int:
        return int(weights.tensors["hada_w1_b"].shape[0])

    @classmethod
    def product(cls, factors: Mapping[str, Tensor]) -> Tensor:
        return _half(factors, 1) * _half(factors, 2)

    @classmethod
    def peft(cls) -> Any:
        from peft import LoHaConfig

        return LoHaConfig


def _half(t: Mapping[str, Tensor], n: int) -> Tensor:
    out, inner = t[f"hada_w{n}_a"], t[f"hada_w{n}_b"]
    if f"hada_t{n}" in t:
        return tucker(t[f"hada_t{n}"], out, inner)
    return out.flatten(1) @ inner.flatten(1)  # OneTrainer keeps those of a convolution in four dimensions


PLUGIN = Loha
