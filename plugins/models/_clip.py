"""CLIP text encoders: loading weights of any age, and the modules that kohya's LoRAs adapt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from plugins.models import _modules
from plugins.models._lazily import renamed
from plugins.models._lora_names import TEXT
from plugins.models._modules import Network
from plugins.models._unet import layers_within

_PREFIX = "text_model."
_CONTAINERS = ("CLIPAttention", "CLIPMLP")


def build(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor] | None,
    where: str,
    *,
    projection: bool,
    dtype: torch.dtype | None = torch.float32,
) -> Network:
    """The encoder with its weights, or new ones from torch's random state for `state` None. Raises UserError.

    projection: with a text projection behind it, whose pooled output SDXL uses.
    """
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    text = _modules.build(lambda: kind(CLIPTextConfig(**config)), where, empty=state is not None)
    if state is not None and state is not _modules.NO_WEIGHTS:
        flat = flat_names(state)
        _modules.fill(text, prefixed_names(flat) if projection else flat, where, dtype)
        number_positions(text)
    return _modules.freeze(text)


def flat_names(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The names of transformers 5, without "text_model." and the position numbers that older versions wrote."""
    return renamed(state, lambda name: None if name.endswith("position_ids") else name.removeprefix(_PREFIX))


def prefixed_names(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The names that transformers 4 and every other tool reads; transformers 5 reads them too."""
    return renamed(state, lambda name: name if name.startswith((_PREFIX, "text_projection")) else _PREFIX + name)


def number_positions(text: nn.Module) -> None:
    """Fills the position numbers, which are no weights and so stay empty when a module was built on the meta device."""
    for module in text.modules():
        ids = getattr(module, "position_ids", None)
        if isinstance(ids, Tensor) and ids.is_meta:
            module.position_ids = torch.arange(ids.shape[-1]).expand(1, -1)


def adapter_targets(text: nn.Module) -> list[str]:
    """The four projections of every attention and the two layers of every MLP."""
    return layers_within(text, _CONTAINERS)


def adapter_aliases(part: str, module: str) -> list[str]:
    """All names of a module in LoRA files: kohya's, dotted, ComfyUI's; with and without the "text_model" that
    transformers 5 left out."""
    flat = module.removeprefix(_PREFIX)
    beginnings = [beginning for beginning, owner in TEXT.items() if owner == part]
    both = [f"{b}{name}" for b in beginnings for name in (f"{_PREFIX}{flat}", flat)]
    return [name.replace(".", "_") if name.startswith("lora_") else name for name in both]


def config_of(text: Network, dtype: torch.dtype) -> dict[str, Any]:
    """The config.json of a live text encoder, in the words of transformers 4 and 5."""
    config = {k: v for k, v in text.config.to_dict().items() if not k.startswith("_")}
    name = str(dtype).removeprefix("torch.")
    return {**config, "architectures": [type(text).__name__], "dtype": name, "torch_dtype": name}
