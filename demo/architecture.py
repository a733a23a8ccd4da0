"""The shape of the demo's model: Stable Diffusion's parts, made tiny, and the folder that describes them.

Everything is as in Stable Diffusion 1.x (UNet with cross-attention to a CLIP text encoder, scaled-linear schedule),
but for the size and for predicting velocity, which suits 32-pixel pictures with flat grounds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from demo import vocabulary

TEXT_WIDTH = 96

UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    # No attention at the outer level: 256 positions are dear on a CPU, and strokes are local.
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [32, 64, 96],
    "layers_per_block": 1,
    "attention_head_dim": 4,  # the number of heads, by diffusers' old name
    "cross_attention_dim": TEXT_WIDTH,
    "norm_num_groups": 16,
}

SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": False,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "steps_offset": 1,
}

INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
}


def text_encoder(tokens: int) -> dict[str, Any]:
    """The text encoder's config for a vocabulary of `tokens`, the last two of which start and end a prompt."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": tokens,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 256,
        "projection_dim": TEXT_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": vocabulary.LENGTH,
        "hidden_act": "quick_gelu",
        "bos_token_id": tokens - 2,
        "eos_token_id": tokens - 1,
        "pad_token_id": tokens - 1,
    }


def write(folder: Path) -> None:
    """Writes a diffusers folder without weights or autoencoder: what `model.init = "random"` starts from."""
    tokens = vocabulary.save(folder / "tokenizer")
    for name, content in {
        "model_index.json": INDEX,
        "unet/config.json": UNET,
        "text_encoder/config.json": text_encoder(tokens),
        "scheduler/scheduler_config.json": SCHEDULER,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
