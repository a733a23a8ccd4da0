"""The UNet of the latent-diffusion families: loading, and the modules that kohya's LoRAs adapt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from plugins.models import _modules
from plugins.models._lora_names import UNET
from plugins.models._modules import Network
from plugins.models._original_names import unet_names

ATTENTION = ("Transformer2DModel",)  # containers that a plain LoRA adapts
CONVOLUTION = ("ResnetBlock2D", "Downsample2D", "Upsample2D")  # and those that LoCon adds


def build(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor] | None,
    where: str,
    dtype: torch.dtype | None = torch.float32,
) -> Network:
    """The UNet with its weights, or with new ones from torch's random state when `state` is None. Raises UserError."""
    unet = _modules.build(lambda: UNet2DConditionModel.from_config(dict(config)), where, empty=state is not None)
    return _modules.freeze(unet if state is None else _modules.fill(unet, state, where, dtype))


def layers_within(module: nn.Module, containers: tuple[str, ...]) -> list[str]:
    """Names of all linear and convolution layers inside modules of the named classes, in the module's order.

    Works with adapters in place too: an adapted layer counts under its own name.
    """
    roots = [name for name, child in module.named_modules() if type(child).__name__ in containers]
    names = []
    for name, child in module.named_modules():
        plain = getattr(child, "base_layer", child)
        inside = any(name.startswith(f"{root}.") for root in roots)
        inner = any(p == "base_layer" or p.startswith(_modules.ADAPTER_PREFIXES) for p in name.split("."))
        if inside and not inner and isinstance(plain, (nn.Linear, nn.Conv2d)):
            names.append(name)
    return names


def adapter_targets(unet: nn.Module, *, conv: bool) -> list[str]:
    """kohya's selection: all layers of the transformers; `conv` adds the ResNets and samplers."""
    return layers_within(unet, ATTENTION + CONVOLUTION if conv else ATTENTION)


def adapter_key(module: str) -> str:
    """kohya's name of a UNet module of SD 1.x and 2.x, whose names are diffusers' own."""
    return "lora_unet_" + module.replace(".", "_")


def adapter_aliases(module: str, config: Mapping[str, Any]) -> list[str]:
    """All names of a UNet module in LoRA files, with diffusers' or the original block names: kohya's, and dotted."""
    original = str(unet_names(config).to_original(module))
    kohya = [f"{b}{m}" if "." in b else (b + m.replace(".", "_")) for b in UNET for m in (module, original)]
    return [*kohya, module, original]


def lora_text_width(shapes: Mapping[str, Sequence[int]]) -> int | None:
    """The width of the text states, from the shapes of a LoRA's tensors; None when it adapts no cross attention."""
    leaves = ("lora_down.weight", "lora_A.weight", "lora.down.weight", "hada_w1_b")
    ends = tuple(f"attn2{dot}to_k.{leaf}" for dot in "._" for leaf in leaves)
    return next((int(shape[1]) for name, shape in shapes.items() if name.endswith(ends)), None)
