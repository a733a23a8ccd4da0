"""OpenCLIP's text tower, as SD 2.x and SDXL checkpoints hold it, in the names of transformers and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from plugins.models._lazily import Lazily

_LAYER = (
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)
_OUTER = (
    ("token_embedding.weight", "embeddings.token_embedding.weight"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("ln_final.weight", "final_layer_norm.weight"),
    ("ln_final.bias", "final_layer_norm.bias"),
)
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")  # one tensor of OpenCLIP's, in this order


def to_transformers(state: Mapping[str, Tensor], layers: int, *, projection: bool) -> Mapping[str, Tensor]:
    """The first `layers` layers in transformers' flat names; `projection` keeps the text projection, transposed.

    SD 2.x uses the last but one layer's output, so its 24th layer is left out here; no name of it is lost in a file
    that is written back.
    """
    outer = dict(_OUTER)
    found: dict[str, Callable[[], Tensor]] = {}
    for name in state:
        read = partial(state.__getitem__, name)
        if name in outer:
            found[outer[name]] = read
        elif name == "text_projection" and projection:
            found["text_projection.weight"] = partial(_turned, read)
        elif name.startswith("transformer.resblocks."):
            _, _, index, rest = name.split(".", 3)
            if int(index) < layers:
                found.update(_layer_to_transformers(f"encoder.layers.{index}", rest, read))
    return Lazily(found)


def to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse, of flat names (without "text_model.")."""
    inner = {transformers: original for original, transformers in _OUTER}
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in inner:
            found[inner[name]] = tensor
        elif name == "text_projection.weight":
            found["text_projection"] = tensor.T.contiguous()
        elif not any(f".{p}." in name for p in _PROJECTIONS):
            _, _, index, rest = name.split(".", 3)
            stem, _, leaf = rest.rpartition(".")
            original = next(o for o, t in _LAYER if t == stem)
            found[f"transformer.resblocks.{index}.{original}.{leaf}"] = tensor
        elif ".q_proj." in name:
            _, _, index, _ = name.split(".", 3)
            leaf = name.rpartition(".")[2]
            joined = torch.cat([state[name.replace("q_proj", p)] for p in _PROJECTIONS])
            found[f"transformer.resblocks.{index}.attn.in_proj_{leaf}"] = joined
    return found


def with_unused_layer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Flat names with one more layer, a copy of the last."""
    count = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layers."))
    last, extra = f"encoder.layers.{count - 1}.", f"encoder.layers.{count}."
    return {**state, **{name.replace(last, extra): t.clone() for name, t in state.items() if name.startswith(last)}}


def _layer_to_transformers(layer: str, rest: str, read: Callable[[], Tensor]) -> dict[str, Callable[[], Tensor]]:
    if rest.startswith("attn.in_proj_"):
        leaf = rest.removeprefix("attn.in_proj_")
        return {f"{layer}.self_attn.{p}.{leaf}": partial(_third, read, at) for at, p in enumerate(_PROJECTIONS)}
    stem, _, leaf = rest.rpartition(".")
    names = dict(_LAYER)
    return {f"{layer}.{names[stem]}.{leaf}": read} if stem in names else {f"{layer}.{rest}": read}


def _third(read: Callable[[], Tensor], at: int) -> Tensor:
    return read().chunk(3)[at]


def _turned(read: Callable[[], Tensor]) -> Tensor:
    return read().T.contiguous()
