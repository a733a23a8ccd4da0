"""LoRA: the product of two thin matrices is added to a layer's weight (arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from plugins.adapters._kind import BIAS, SPARSE, Kind

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.batch import AdapterDropout, AdapterWeights

DOWN, UP = "lora_down.weight", "lora_up.weight"
MID = "lora_mid.weight"  # LyCORIS' kernel between two 1x1 convolutions (Tucker form)


class Lora(Kind):
    """up @ down (Hu et al. 2021, section 4.1), for convolutions too (LoCon)."""

    title = "LoRA"
    summary = "lora is read by every program"
    leaves: ClassVar[tuple[str, ...]] = (DOWN, UP, MID)
    needed: ClassVar[tuple[tuple[str, ...], ...]] = ((DOWN,), (UP,))
    extras: ClassVar[tuple[str, ...]] = (BIAS, *SPARSE)
    trains = True
    trainable: ClassVar[tuple[str, ...]] = (DOWN, UP)
    plain = True
    zero = (UP,)
    attributes: ClassVar[Mapping[str, str]] = {DOWN: "lora_A", UP: "lora_B"}
    module = "networks.lora"

    @classmethod
    def rank(cls, weights: AdapterWeights) -> int:
        return int(weights.down.shape[0])

    @classmethod
    def product(cls, factors: Mapping[str, Tensor]) -> Tensor:
        """For a convolution the product runs over the rank, each kernel cell by itself."""
        down, up = factors[DOWN], factors[UP]
        if MID in factors:
            import torch

            return torch.einsum("or,rskl,si->oikl", up.flatten(1), factors[MID], down.flatten(1))
        return (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])

    @classmethod
    def config(cls, common: Mapping[str, Any], dropout: AdapterDropout, settings: Any) -> Any:
        from peft import LoraConfig

        return LoraConfig(lora_dropout=dropout.inputs, **common)

    @classmethod
    def finish(cls, layer: Any, dropout: AdapterDropout) -> None:
        """kohya's dropouts, which peft's LoRA lacks; and autocast alone decides in which precision inputs are.

        peft raises an input to the adapter's float32, and autocast lowers it again: the same bits, after two kernels
        and a float32 copy that is kept for the backward pass. Dropout may draw otherwise in another precision.
        """
        layer.cast_input_dtype_enabled = bool(dropout.inputs)
        from plugins.adapters import _dropout

        name = layer.active_adapters[0]
        if dropout.ranks:
            _dropout.add_rank_dropout(layer.lora_A[name], dropout.ranks)
        if dropout.modules:
            _dropout.add_module_dropout(layer.lora_B[name], dropout.modules)


PLUGIN = Lora
