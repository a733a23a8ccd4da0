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
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerFast

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

SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
}


def byte_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer without merges: one token per byte; 514 tokens, 77 positions."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in visible] + [chr(256 + n) for n in range(256 - len(visible))]
    tokens = letters + [letter + "</w>" for letter in letters] + list(SPECIAL)
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=77)


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
    linear_projection: bool = False,
    width: int = 32,
) -> Path:
    """Writes an SD 1.x-shaped diffusers folder and returns it.

    prediction: diffusers' prediction_type; words: a word-level tokenizer with 16 positions instead of bytes with 77;
    plain_outer: no attention at the UNet's outer level; linear_projection: as SD 2.x; width: of the text states.
    """
    made = _made(seed, prediction, zero_snr, vae_factor, words, plain_outer, linear_projection, width)
    return Path(shutil.copytree(made, folder, dirs_exist_ok=True))


@functools.cache
def _made(
    seed: int,
    prediction: str,
    zero_snr: bool,
    vae_factor: int,
    words: bool,
    plain_outer: bool,
    linear_projection: bool,
    width: int,
) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tiny-sd-"))
    tokenizer = word_tokenizer() if words else byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write_module(folder / "unet", tiny_unet(width, plain_outer=plain_outer, linear_projection=linear_projection))
        write_module(folder / "vae", tiny_vae(vae_factor))
        write_text_encoder(folder / "text_encoder", tiny_clip(len(tokenizer), tokenizer, width))
    tokenizer.save_pretrained(folder / "tokenizer")
    schedule = {**SCHEDULER, "prediction_type": prediction, "rescale_betas_zero_snr": zero_snr}
    write_json(folder / "scheduler" / "scheduler_config.json", schedule)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast" if words else "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(folder / "model_index.json", index)
    return folder


def tiny_unet(width: int = 32, *, plain_outer: bool = False, linear_projection: bool = False) -> UNet2DConditionModel:
    outer = ("DownBlock2D", "UpBlock2D") if plain_outer else ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=16,
        use_linear_projection=linear_projection,
        down_block_types=(outer[0], "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", outer[1]),
    )


def tiny_vae(factor: int = 2, scaling_factor: float = 0.18215) -> AutoencoderKL:
    levels = factor.bit_length()  # 2 -> 2 levels, 4 -> 3, 8 -> 4
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=scaling_factor,
    )


def tiny_clip(vocabulary: int, tokenizer: Any, width: int = 32, layers: int = 2) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def write_module(folder: Path, module: nn.Module) -> None:
    """A diffusers module, as config.json and weights."""
    module.save_config(folder)
    save_file(module.state_dict(), folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def write_text_encoder(folder: Path, text: CLIPTextModel) -> None:
    """A text encoder with the names of transformers 4, which all tools write."""
    text.config.save_pretrained(folder)
    named = {k if k.startswith("text_") else f"text_model.{k}": v for k, v in text.state_dict().items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
