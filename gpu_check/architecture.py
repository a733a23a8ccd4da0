"""Bases of true size with random weights, made on the device itself: nothing is downloaded, nothing lies on a disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import CLIPTokenizer

if TYPE_CHECKING:
    from trainer.config.schema.whole import BaseConfig
    from trainer.protocols import Family

# As the published bases' own config files have them.
_SD = {
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {**_SD, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {
        **_SD,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "tiny": {
        "block_out_channels": [32, 64],
        "norm_num_groups": 8,
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 64,
        "attention_head_dim": 4,
    },
}
VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
_SMALL_VAE = {**VAE, "block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}
_WORDS = {"vocab_size": 49408, "max_position_embeddings": 77}
TEXTS: dict[str, dict[str, Any]] = {
    "clip_l": {
        **_WORDS,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
        "projection_dim": 768,
    },
    "open_clip_h": {
        **_WORDS,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
    "open_clip_g": {
        **_WORDS,
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "hidden_act": "gelu",
        "projection_dim": 1280,
    },
    "tiny": {
        **_WORDS,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 64,
    },
}
_TEXTS_OF = {"sd1": ["clip_l"], "sd2": ["open_clip_h"], "sdxl": ["clip_l", "open_clip_g"], "tiny": ["tiny"]}
SCHEDULE = {
    "_class_name": "DDPMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
}
_MARKS = ("<|startoftext|>", "<|endoftext|>")


def byte_tokenizer(*, zero_padding: bool = False) -> CLIPTokenizer:
    """CLIP's tokenizer without merges: one token per byte; 514 tokens, 77 positions; pads with "!" as OpenCLIP's do."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in visible] + [chr(256 + n) for n in range(256 - len(visible))]
    tokens = letters + [letter + "</w>" for letter in letters] + list(_MARKS)
    padding = {"pad_token": "!"} if zero_padding else {}
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=77, **padding)


def write_outline(version: str, folder: Path) -> None:
    """A diffusers folder of "sd1", "sd2", "sdxl" or "tiny" that lacks nothing but weights."""
    texts = _TEXTS_OF[version]
    configs: dict[str, dict[str, Any]] = {
        "unet": {"_class_name": "UNet2DConditionModel", **UNETS[version]},
        "vae": {"_class_name": "AutoencoderKL", **(_SMALL_VAE if version == "tiny" else VAE)},
    }
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if len(texts) > 1 else "StableDiffusionPipeline",
        "_diffusers_version": "0.42.0",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    for number, text in enumerate(texts):
        end = f"_{number + 1}" if number else ""
        kind = "CLIPTextModelWithProjection" if number else "CLIPTextModel"
        configs[f"text_encoder{end}"] = {"architectures": [kind], "model_type": "clip_text_model", **TEXTS[text]}
        index[f"text_encoder{end}"] = ["transformers", kind]
        index[f"tokenizer{end}"] = ["transformers", "CLIPTokenizer"]
        byte_tokenizer(zero_padding=number > 0).save_pretrained(folder / f"tokenizer{end}")
    for part, config in configs.items():
        _write(folder / part / "config.json", config)
    _write(folder / "scheduler" / "scheduler_config.json", SCHEDULE)
    _write(folder / "model_index.json", index)


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def opened_on(device: torch.device, dtype: torch.dtype) -> Callable[[BaseConfig], Family]:
    """In the place of trainer.assembly.model.open_family: the base's outline, filled on the device; float32 VAE."""
    from trainer.assembly.model import open_family  # with all that trains

    def opened(config: BaseConfig) -> Family:
        family = open_family(config, outline=True)
        for part in family.parts.values():
            fill(part, device, dtype)
        fill(family.vae, device, torch.float32)
        return family

    return opened


@torch.no_grad()
def fill(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Weights of a size that keeps activations as they are; norms that change nothing. Frozen, in eval mode."""
    module.to(dtype).to_empty(device=device)
    stream = torch.Generator(device).manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.uniform_(-1, 1, generator=stream).mul_((3 / parameter[0].numel()) ** 0.5)
        else:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    for name, buffer in module.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1], device=device)[None])
    module.requires_grad_(False).eval()
