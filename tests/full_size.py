"""The real architectures on torch's meta device: names and shapes without memory. Configs are the published ones."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from plugins.models._latent_diffusion import Components, NoiseSchedule
from plugins.models.sd import LAYOUTS, StableDiffusion
from plugins.models.sdxl import LAYOUT, StableDiffusionXL
from tests.tiny import SCHEDULER, byte_tokenizer

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
}
VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
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
}


@functools.cache
def family(version: str) -> Any:
    """`make`, shared by those who change nothing."""
    return make(version)


def make(version: str) -> Any:
    """ "sd1", "sd2" or "sdxl", its networks on the meta device."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[version])
        vae = AutoencoderKL(**VAE)
        texts = [CLIPTextModel(CLIPTextConfig(**TEXTS["open_clip_h" if version == "sd2" else "clip_l"]))]
        if version == "sdxl":
            texts.append(CLIPTextModelWithProjection(CLIPTextConfig(**TEXTS["open_clip_g"])))
    names = ["text_encoder", "text_encoder_2"][: len(texts)]
    tokens = ["tokenizer", "tokenizer_2"][: len(texts)]
    components = Components(
        unet=unet,
        vae=vae,
        text_encoders=dict(zip(names, texts, strict=True)),
        tokenizers={name: byte_tokenizer() for name in tokens},
        schedule=NoiseSchedule.read(SCHEDULER, "auto", "test"),
        layout=LAYOUT if version == "sdxl" else LAYOUTS[version],
    )
    return StableDiffusionXL(components) if version == "sdxl" else StableDiffusion(components)


def filled(version: str, dtype: torch.dtype = torch.float32) -> Any:
    """The same on the CPU with random weights, frozen; drawn straight in `dtype`, but for the VAE."""
    made = make(version)
    for module in made.parts.values():
        fill(module, dtype)
    fill(made.vae, torch.float32)
    return made


def fill(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Weights of a size that keeps activations as they are; norms that change nothing."""
    module.to(dtype).to_empty(device="cpu")
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.uniform_(-1, 1, generator=stream).mul_((3 / parameter[0].numel()) ** 0.5)
            else:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for name, buffer in module.named_buffers():
            if name.endswith("position_ids"):
                buffer.copy_(torch.arange(buffer.shape[-1])[None])
    module.requires_grad_(False).eval()
