"""DoRA: a LoRA that also learns the length of each column of the weight (arXiv 2402.09353)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from plugins.adapters._kind import BIAS, MAGNITUDE, SPARSE
from plugins.adapters.lora import Lora

if TYPE_CHECKING:
    from trainer.batch import AdapterDropout


class Dora(Lora):
    """m * (W + dW) / |W + dW| (Liu et al. 2024, equation 5), column by column of W (out, in), which is the axis of the
    paper and the one that ComfyUI, A1111 and Forge read right; files with the other are read too."""

    title = "DoRA"
    summary = "dora also learns the length of each column (right in ComfyUI, A1111 and Forge; diffusers drops them)"
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (*Lora.needed, (MAGNITUDE,))
    extras: ClassVar[tuple[str, ...]] = (MAGNITUDE, BIAS, *SPARSE)
    trainable: ClassVar[tuple[str, ...]] = (*Lora.trainable, MAGNITUDE)
    plain = False
    given = (MAGNITUDE,)
    attributes: ClassVar[Mapping[str, str]] = {**Lora.attributes, MAGNITUDE: "lora_magnitude_vector"}
    module = "lycoris.kohya"
    arguments: ClassVar[Mapping[str, str]] = {"algo": "lora", "dora_wd": "True", "wd_on_output": "False"}

    @classmethod
    def problems(cls, dropout: AdapterDropout) -> Iterable[str]:
        if dropout.ranks or dropout.modules:
            yield "lora.method: DoRA has no rank_dropout or module_dropout; set them to 0, or use lora.dropout"

    @classmethod
    def finish(cls, layer: Any, dropout: AdapterDropout) -> None:
        """Puts in the magnitudes, and the forward pass that knows them."""
        from plugins.adapters._magnitude import Magnitude, Turned

        name = layer.active_adapters[0]
        layer.lora_magnitude_vector[name] = Magnitude(layer.get_base_layer().weight)
        layer.lora_variant[name] = Turned()


PLUGIN = Dora
