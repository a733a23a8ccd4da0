"""Tiny random models for tests: complete diffusers folders, the same bits in every process, made in under a second."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from gpu_check.architecture import SCHEDULE as SCHEDULER
from gpu_check.architecture import byte_tokenizer as byte_tokenizer

WORDS = (
    "a",
    "photo",
    "of",
    "printed",
    "handwritten",
    "digit",
    "zero",
    "one",
    "two",
    "three",
    "cat",
    "dog",
    "red",
    "blue",
)
SPECIAL = ("<|startoftext|>", "<|endoftext|>")

POOLED = 16  # width of tiny SDXL's pooled text states
INDEX = {
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def word_tokenizer(positions: int = 16) -> PreTrainedTokenizerFast:
    """One token per word; unknown words share one token."""
    tokens = [*SPECIAL, "<|unknown|>", *WORDS]
    core = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<|unknown|>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A {SPECIAL[1]}", special_tokens=[(SPECIAL[0], 0), (SPECIAL[1], 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[1],
        unk_token="<|unknown|>",
        model_max_length=positions,
    )


def tiny_sd(
    folder: Path,
    *,
    seed: int = 0,
    prediction: str = "epsilon",
    zero_snr: bool = False,
    vae_factor: int = 2,
    words: bool = False,
    plain_outer: bool = False,
    version: int = 1,
    width: int = 64,
    fills: bool = False,
) -> Path:
    """Writes a diffusers folder with the shape of SD 1.x or 2.x and returns it.

    prediction: diffusers' prediction_type; words: a word-level tokenizer with 16 positions instead of bytes with 77;
    plain_outer: no attention at the UNet's outer level; version: 2 as SD 2.x; width: of the text states; fills: an
    inpainting model.
    """
    made = _made(seed, prediction, zero_snr, vae_factor, words, plain_outer, version, width, fills)
    return Path(shutil.copytree(made, folder, dirs_exist_ok=True))


def tiny_sdxl(
    folder: Path, *, seed: int = 0, prediction: str = "epsilon", zero_snr: bool = False, fills: bool = False
) -> Path:
    """Writes a diffusers folder with the shape of SDXL and returns it. Its text encoders have different widths, as the
    real ones do: diffusers tells them apart by that."""
    return Path(shutil.copytree(_made_xl(seed, prediction, zero_snr, fills), folder, dirs_exist_ok=True))


@functools.cache
def _made(
    seed: int,
    prediction: str,
    zero_snr: bool,
    vae_factor: int,
    words: bool,
    plain_outer: bool,
    version: int,
    width: int,
    fills: bool,
) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tiny-sd-"))
    tokenizer = word_tokenizer() if words else byte_tokenizer(zero_padding=version == 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write_module(folder / "unet", tiny_unet(width, plain_outer=plain_outer, version=version, fills=fills))
        write_module(folder / "vae", tiny_vae(vae_factor))
        encoder = tiny_clip(tokenizer, width, activation="gelu" if version == 2 else "quick_gelu")
        write_text_encoder(folder / "text_encoder", encoder)
    tokenizer.save_pretrained(folder / "tokenizer")
    write_schedule(folder, prediction, zero_snr)
    index = {
        "_class_name": f"StableDiffusion{'Inpaint' if fills else ''}Pipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast" if words else "CLIPTokenizer"],
    }
    write_json(folder / "model_index.json", {**INDEX, **index})
    return folder


@functools.cache
def _made_xl(seed: int, prediction: str, zero_snr: bool, fills: bool) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tiny-sdxl-"))
    first, second = byte_tokenizer(), byte_tokenizer(zero_padding=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write_module(folder / "unet", tiny_unet_xl(fills=fills))
        write_module(folder / "vae", tiny_vae(2, scaling_factor=0.13025))
        write_text_encoder(folder / "text_encoder", tiny_clip(first, 64))
        pooled = tiny_clip(second, 128, activation="gelu", projection=POOLED)
        write_text_encoder(folder / "text_encoder_2", pooled)
    first.save_pretrained(folder / "tokenizer")
    second.save_pretrained(folder / "tokenizer_2")
    write_schedule(folder, prediction, zero_snr)
    index = {
        "_class_name": f"StableDiffusionXL{'Inpaint' if fills else ''}Pipeline",
        "force_zeros_for_empty_prompt": True,
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    write_json(folder / "model_index.json", {**INDEX, **index})
    return folder


def tiny_unet(
    width: int = 64, *, plain_outer: bool = False, version: int = 1, fills: bool = False
) -> UNet2DConditionModel:
    outer = ("DownBlock2D", "UpBlock2D") if plain_outer else ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=9 if fills else 4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=8 if version == 1 else (1, 1),
        use_linear_projection=version == 2,
        down_block_types=(outer[0], "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", outer[1]),
    )


def tiny_unet_xl(*, fills: bool = False) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=9 if fills else 4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=64 + 128,
        attention_head_dim=(1, 1),
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + POOLED,
    )


def tiny_vae(factor: int = 2, scaling_factor: float = 0.18215) -> AutoencoderKL:
    levels = factor.bit_length()  # 2 -> 2 levels, 4 -> 3, 8 -> 4
    return AutoencoderKL(
        block_out_channels=(32,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=4,
        sample_size=32,
        scaling_factor=scaling_factor,
    )


def tiny_clip(
    tokenizer: Any, width: int = 64, *, layers: int = 2, activation: str = "quick_gelu", projection: int = 0
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """projection: width of the pooled states behind a projection; 0 = none."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act=activation,
        projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def write_schedule(folder: Path, prediction: str, zero_snr: bool) -> None:
    schedule = {**SCHEDULER, "prediction_type": prediction, "rescale_betas_zero_snr": zero_snr}
    write_json(folder / "scheduler" / "scheduler_config.json", schedule)


def write_module(folder: Path, module: nn.Module) -> None:
    """A diffusers module, as config.json and weights."""
    module.save_config(folder)
    save_file(module.state_dict(), folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def write_text_encoder(folder: Path, text: CLIPTextModel | CLIPTextModelWithProjection) -> None:
    """A text encoder with the names of transformers 4, which all tools write."""
    text.config.save_pretrained(folder)
    named = {k if k.startswith("text_") else f"text_model.{k}": v for k, v in text.state_dict().items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
