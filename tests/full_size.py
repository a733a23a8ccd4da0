"""The real architectures on torch's meta device: names and shapes without memory. Configs are the published ones."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from gpu_check.architecture import TEXTS, UNETS, VAE, byte_tokenizer, fill
from plugins.models._latent_diffusion import Components, StoredSchedule
from plugins.models.sd import LAYOUTS, StableDiffusion
from plugins.models.sdxl import LAYOUT, StableDiffusionXL
from tests.tiny import SCHEDULER

CPU = torch.device("cpu")


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
        schedule=StoredSchedule.read(SCHEDULER, "auto", "test"),
        layout=LAYOUT if version == "sdxl" else LAYOUTS[version],
    )
    return StableDiffusionXL(components) if version == "sdxl" else StableDiffusion(components)


def filled(version: str, dtype: torch.dtype = torch.float32) -> Any:
    """The same on the CPU with random weights, frozen; drawn straight in `dtype`, but for the VAE."""
    made = make(version)
    for module in made.parts.values():
        fill(module, CPU, dtype)
    fill(made.vae, CPU, torch.float32)
    return made
