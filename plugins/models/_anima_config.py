"""The configs of Anima's networks, worked out from the names and shapes of its files, which hold none."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

# What no shape tells: Cosmos-Predict2's positions for pictures, and the ranges that diffusers' copies of it have.
ROPE = {"max_size": [128, 240, 240], "rope_scale": [1.0, 4.0, 4.0], "extra_pos_embed_type": None}
PATCH = (1, 2, 2)
TOKENS = 512  # to which the conditioner's output is filled up, and where captions are cut
SHIFT = 3.0  # of the noise schedule when pictures are drawn: ComfyUI's and sd-scripts'
# Of Wan 2.1's latents, one for each channel; diffusers has the same for Qwen-Image's.
LATENT_CHANNELS = 16


def transformer(shapes: Shapes) -> dict[str, Any]:
    """diffusers' config of CosmosTransformer3DModel, from original names without a prefix. Raises KeyError."""
    width, patched = shapes["x_embedder.proj.1.weight"]
    head = shapes["blocks.0.self_attn.q_norm.weight"][0]
    out = shapes["final_layer.linear.weight"][0] // _cells()
    channels = patched // _cells()
    return {
        "in_channels": out,
        "out_channels": out,
        "num_attention_heads": width // head,
        "attention_head_dim": head,
        "num_layers": _count(shapes, r"blocks\.(\d+)\."),
        "mlp_ratio": shapes["blocks.0.mlp.layer1.weight"][0] / width,
        "text_embed_dim": shapes["blocks.0.cross_attn.k_proj.weight"][1],
        "adaln_lora_dim": shapes["blocks.0.adaln_modulation_self_attn.1.weight"][0],
        "patch_size": list(PATCH),
        "concat_padding_mask": channels == out + 1,
        **ROPE,
    }


def conditioner(shapes: Shapes) -> dict[str, Any]:
    """diffusers' config of AnimaTextConditioner, from names without "llm_adapter.". Raises KeyError."""
    model, source = shapes["blocks.0.cross_attn.k_proj.weight"]
    head = shapes["blocks.0.cross_attn.q_norm.weight"][0]
    vocabulary, target = shapes["embed.weight"]
    return {
        "source_dim": source,
        "target_dim": target,
        "model_dim": model,
        "num_layers": _count(shapes, r"blocks\.(\d+)\."),
        "num_attention_heads": model // head,
        "mlp_ratio": shapes["blocks.0.mlp.0.weight"][0] / model,
        "target_vocab_size": vocabulary,
        "use_self_attention": "blocks.0.self_attn.q_proj.weight" in shapes,
        "use_layer_norm": "blocks.0.norm_mlp.bias" in shapes,
        "min_sequence_length": TOKENS,
    }


def text_encoder(shapes: Shapes) -> dict[str, Any]:
    """transformers' config of Qwen3Model, from its own names. Raises KeyError."""
    vocabulary, width = shapes["embed_tokens.weight"]
    head = shapes["layers.0.self_attn.q_norm.weight"][0]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["layers.0.mlp.gate_proj.weight"][0],
        "num_hidden_layers": _count(shapes, r"layers\.(\d+)\."),
        "num_attention_heads": shapes["layers.0.self_attn.q_proj.weight"][0] // head,
        "num_key_value_heads": shapes["layers.0.self_attn.k_proj.weight"][0] // head,
        "head_dim": head,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
    }


def vae(shapes: Shapes) -> dict[str, Any]:
    """diffusers' config of AutoencoderKLQwenImage, from original names. Raises KeyError."""
    base = shapes["encoder.conv1.weight"][0]
    blocks = _count(shapes, r"encoder\.downsamples\.(\d+)\.")
    shrinking = [n for n in range(blocks) if f"encoder.downsamples.{n}.resample.1.weight" in shapes]
    starts = [0, *(n + 1 for n in shrinking)]
    return {
        "base_dim": base,
        "z_dim": shapes["conv2.weight"][0],
        "dim_mult": [shapes[f"encoder.downsamples.{n}.residual.2.weight"][0] // base for n in starts],
        "num_res_blocks": shrinking[0],
        "attn_scales": [],
        "temperal_downsample": [f"encoder.downsamples.{n}.time_conv.weight" in shapes for n in shrinking],
        "dropout": 0.0,
    }


def _cells() -> int:
    return PATCH[0] * PATCH[1] * PATCH[2]


def _count(names: Collection[str], pattern: str) -> int:
    found = {int(match[1]) for name in names if (match := re.match(pattern, name))}
    if not found:
        raise KeyError(pattern.replace("\\", ""))
    return max(found) + 1
