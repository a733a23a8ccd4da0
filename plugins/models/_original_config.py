"""The configs that an original one-file checkpoint lacks, worked out from the shapes of its tensors.

What shapes don't tell (heads, activations, scales, the noise schedule) are the published facts of each family. The
result for the published sizes equals the published diffusers configs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]

SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def scheduler(prediction_type: str | None, *, zero_snr: bool) -> dict[str, Any]:
    """The schedule of all Stable Diffusion models; `zero_snr` rescales it (Lin et al. 2023, arXiv 2305.08891)."""
    spacing = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if zero_snr else {}
    return {**SCHEDULER, "prediction_type": prediction_type, **spacing}


def unet(shapes: Shapes, *, head_width: int | None, pooled: int = 0) -> dict[str, Any]:
    """The UNet's config from the shapes below "model.diffusion_model.".

    head_width: channels of one attention head, or None for 8 heads everywhere (SD 1.x); pooled: width of the pooled
    text states among the added conditions (SDXL), 0 = there are none. Raises UserError for any other layout.
    """
    levels = _levels(shapes)
    channels = [level[0][0] for level in levels]
    depths = [level[0][1] for level in levels]
    attended = next((s for n, s in shapes.items() if n.endswith("attn2.to_k.weight")), None)
    if attended is None or any(len(level) != len(levels[0]) for level in levels):
        raise UserError("its UNet has a layout that is not Stable Diffusion's")
    projection = next(s for n, s in shapes.items() if n.endswith(".1.proj_in.weight"))
    added = shapes.get("label_emb.0.0.weight")
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": len(levels[0]),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "transformer_layers_per_block": [max(1, depth) for depth in depths],
        "cross_attention_dim": attended[1],
        "attention_head_dim": 8 if head_width is None else [max(1, c // head_width) for c in channels],
        "use_linear_projection": len(projection) == 2,
        "norm_num_groups": 32,
        "sample_size": 64,
    }
    if _depth(shapes, "middle_block.1") != config["transformer_layers_per_block"][-1]:
        raise UserError("its UNet has a middle block that is not Stable Diffusion's")
    if added is not None and pooled:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (added[1] - pooled) // 6,
            "projection_class_embeddings_input_dim": added[1],
            "sample_size": 128,
        }
    return config


def vae(shapes: Shapes, scaling_factor: float) -> dict[str, Any]:
    """The VAE's config from the shapes below "first_stage_model."."""
    count = _count(shapes, "encoder.down")
    channels = [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(count)]
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * count,
        "up_block_types": ["UpDecoderBlock2D"] * count,
        "layers_per_block": _count(shapes, "encoder.down.0.block"),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "norm_num_groups": 32,
        "scaling_factor": scaling_factor,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in shapes,
    }


def clip(shapes: Shapes) -> dict[str, Any]:
    """OpenAI's CLIP text tower from shapes in transformers' flat names."""
    vocabulary, width = shapes["embeddings.token_embedding.weight"]
    return _text(
        vocabulary,
        width,
        positions=shapes["embeddings.position_embedding.weight"][0],
        layers=_count(shapes, "encoder.layers"),
        inner=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        activation="quick_gelu",
        projection=width,
        padding=vocabulary - 1,
    )


def open_clip(shapes: Shapes, *, drop_last: bool) -> dict[str, Any]:
    """OpenCLIP's text tower from shapes in its own names; `drop_last` leaves the last layer out, as SD 2.x does."""
    vocabulary, width = shapes["token_embedding.weight"]
    return _text(
        vocabulary,
        width,
        positions=shapes["positional_embedding"][0],
        layers=_count(shapes, "transformer.resblocks") - drop_last,
        inner=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        activation="gelu",
        projection=shapes["text_projection"][1] if "text_projection" in shapes else width,
        padding=0,
    )


def _text(
    vocabulary: int,
    width: int,
    *,
    positions: int,
    layers: int,
    inner: int,
    activation: str,
    projection: int,
    padding: int,
) -> dict[str, Any]:
    """All of these towers have heads of 64 channels, and begin and end marks as the last two words."""
    return {
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": positions,
        "hidden_act": activation,
        "projection_dim": projection,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": padding,
    }


def _levels(shapes: Shapes) -> list[list[tuple[int, int]]]:
    """Per level of the UNet's way down, its ResNets as (channels, transformer depth)."""
    levels: list[list[tuple[int, int]]] = [[]]
    slot = 1
    while True:
        convolution = shapes.get(f"input_blocks.{slot}.0.in_layers.2.weight")
        if convolution is not None:
            levels[-1].append((convolution[0], _depth(shapes, f"input_blocks.{slot}.1")))
        elif f"input_blocks.{slot}.0.op.weight" in shapes:
            levels.append([])
        else:
            break
        slot += 1
    if not all(levels):
        raise UserError("its UNet has a layout that is not Stable Diffusion's")
    return levels


def _depth(shapes: Shapes, block: str) -> int:
    return _count(shapes, f"{block}.transformer_blocks")


def _count(shapes: Shapes, stem: str) -> int:
    """How many of stem.0, stem.1, ... there are."""
    indices = {name.removeprefix(f"{stem}.").split(".")[0] for name in shapes if name.startswith(f"{stem}.")}
    return len(indices)
