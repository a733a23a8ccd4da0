"""The names that original checkpoints (CompVis and Stability's, one file) use for what diffusers and transformers name.

A `Names` holds pairs of prefixes for one part; the inner names of blocks are the same rules everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Pair = tuple[str, str]  # (original, diffusers)

_RESNET: tuple[Pair, ...] = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
_VAE_RESNET: tuple[Pair, ...] = (("nin_shortcut", "conv_shortcut"),)
_VAE_ATTENTION: tuple[Pair, ...] = (
    ("norm", "group_norm"),
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("proj_out", "to_out.0"),
)


@dataclass(frozen=True)
class Names:
    """Translates dotted names (of modules or tensors) between an original checkpoint and the live module."""

    pairs: tuple[Pair, ...]

    def to_diffusers(self, name: str) -> str | None:
        """None when the name is none of this part's."""
        return _translate(name, self._original_first)

    def to_original(self, name: str) -> str | None:
        return _translate(name, self._diffusers_first)

    @cached_property
    def _original_first(self) -> dict[str, str]:
        return dict(self.pairs)

    @cached_property
    def _diffusers_first(self) -> dict[str, str]:
        return {diffusers: original for original, diffusers in self.pairs}


def _translate(name: str, table: Mapping[str, str]) -> str | None:
    """Replaces the longest leading run of dotted parts that the table knows."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        found = table.get(".".join(parts[:count]))
        if found is not None:
            return ".".join([found, *parts[count:]])
    return None


def unet_names(config: Mapping[str, Any]) -> Names:
    """Of a UNet with this diffusers config. The layout is that of guided-diffusion's UNet: input_blocks hold a
    convolution, then per level its ResNets (each with its transformer) and a downsampler; output_blocks mirror them."""
    pairs: list[Pair] = [
        ("input_blocks.0.0", "conv_in"),
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("label_emb.0.0", "add_embedding.linear_1"),
        ("label_emb.0.2", "add_embedding.linear_2"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
        *_block(_RESNET, "middle_block.0", "mid_block.resnets.0"),
        ("middle_block.1", "mid_block.attentions.0"),
        *_block(_RESNET, "middle_block.2", "mid_block.resnets.1"),
    ]
    levels, layers = len(config["block_out_channels"]), int(config["layers_per_block"])
    slot = 1
    for level in range(levels):
        for layer in range(layers):
            pairs += _block(_RESNET, f"input_blocks.{slot}.0", f"down_blocks.{level}.resnets.{layer}")
            pairs.append((f"input_blocks.{slot}.1", f"down_blocks.{level}.attentions.{layer}"))
            slot += 1
        if level < levels - 1:
            pairs.append((f"input_blocks.{slot}.0.op", f"down_blocks.{level}.downsamplers.0.conv"))
            slot += 1
    slot = 0
    for level in range(levels):
        attends = "CrossAttn" in config["up_block_types"][level]
        for layer in range(layers + 1):
            pairs += _block(_RESNET, f"output_blocks.{slot}.0", f"up_blocks.{level}.resnets.{layer}")
            if attends:
                pairs.append((f"output_blocks.{slot}.1", f"up_blocks.{level}.attentions.{layer}"))
            if layer == layers and level < levels - 1:
                pairs.append((f"output_blocks.{slot}.{1 + attends}.conv", f"up_blocks.{level}.upsamplers.0.conv"))
            slot += 1
    return Names(tuple(pairs))


def vae_names(config: Mapping[str, Any]) -> Names:
    """Of an AutoencoderKL with this diffusers config."""
    levels, layers = len(config["block_out_channels"]), int(config["layers_per_block"])
    pairs: list[Pair] = [(name, name) for name in ("quant_conv", "post_quant_conv")]
    for side in ("encoder", "decoder"):
        pairs += [
            (f"{side}.conv_in", f"{side}.conv_in"),
            (f"{side}.norm_out", f"{side}.conv_norm_out"),
            (f"{side}.conv_out", f"{side}.conv_out"),
            *_block(_VAE_RESNET, f"{side}.mid.block_1", f"{side}.mid_block.resnets.0"),
            *_block(_VAE_ATTENTION, f"{side}.mid.attn_1", f"{side}.mid_block.attentions.0"),
            *_block(_VAE_RESNET, f"{side}.mid.block_2", f"{side}.mid_block.resnets.1"),
        ]
    for level in range(levels):
        down, up = f"encoder.down.{level}", f"decoder.up.{levels - 1 - level}"
        for layer in range(layers):
            pairs += _block(_VAE_RESNET, f"{down}.block.{layer}", f"encoder.down_blocks.{level}.resnets.{layer}")
        for layer in range(layers + 1):
            pairs += _block(_VAE_RESNET, f"{up}.block.{layer}", f"decoder.up_blocks.{level}.resnets.{layer}")
        pairs.append((f"{down}.downsample.conv", f"encoder.down_blocks.{level}.downsamplers.0.conv"))
        pairs.append((f"{up}.upsample.conv", f"decoder.up_blocks.{level}.upsamplers.0.conv"))
    return Names(tuple(pairs))


def _block(inner: Iterable[Pair], original: str, diffusers: str) -> list[Pair]:
    """The pairs of one block: its inner names, and the block itself for names that both share."""
    return [(f"{original}.{o}", f"{diffusers}.{d}") for o, d in inner] + [(original, diffusers)]
