"""A tiny random Anima: a complete diffusers folder, made by diffusers' and transformers' own classes, and ComfyUI's
three files with the same weights."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AnimaTextConditioner, AutoencoderKLQwenImage, CosmosTransformer3DModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from plugins.models import _anima_names, _anima_vae_names
from tests.tiny import WORDS, write_json, write_module

RESNETS = 2  # of each level of the VAE's decoder
CLASSES = {
    "transformer": ["diffusers", "CosmosTransformer3DModel"],
    "text_conditioner": ["diffusers", "AnimaTextConditioner"],
    "text_encoder": ["transformers", "Qwen3Model"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],  # of whole words, where the real ones are Qwen's and T5's
    "t5_tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "vae": ["diffusers", "AutoencoderKLQwenImage"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
}


def tiny_anima(folder: Path) -> Path:
    """Writes a diffusers folder and returns it."""
    return Path(shutil.copytree(_made(), folder, dirs_exist_ok=True))


def comfy_files(folder: Path, *, prefix: str = "net.") -> Path:
    """Writes models/diffusion_models, text_encoders and vae as ComfyUI has them, and its tokenizers above; returns the
    diffusion model's file. Its own counters and buffers are in it too."""
    base, models_ = _made(), folder / "models"
    for name in ("diffusion_models", "text_encoders", "vae"):
        (models_ / name).mkdir(parents=True)
    own = load_file(base / "transformer" / "diffusion_pytorch_model.safetensors")
    inner = load_file(base / "text_conditioner" / "diffusion_pytorch_model.safetensors")
    state = {prefix + _anima_names.to_original(n): t for n, t in own.items()}
    state |= {f"{prefix}llm_adapter.{n}": t for n, t in inner.items()}
    state |= {f"{prefix}accum_iteration": torch.tensor([7.0]), f"{prefix}pos_embedder.seq": torch.arange(8.0)}
    file = models_ / "diffusion_models" / "anima.safetensors"
    save_file(state, file, metadata={"format": "pt"})
    text = load_file(base / "text_encoder" / "model.safetensors")
    save_file({f"model.{n}": t for n, t in text.items()}, models_ / "text_encoders" / "qwen.safetensors")
    vae = load_file(base / "vae" / "diffusion_pytorch_model.safetensors")
    names = {_anima_vae_names.to_original(n, RESNETS): t for n, t in vae.items()}
    save_file(names, models_ / "vae" / "qwen_image_vae.safetensors")
    for name, place in (("tokenizer", "qwen25_tokenizer"), ("t5_tokenizer", "t5_tokenizer")):
        shutil.copytree(base / name, folder / "comfy" / "text_encoders" / place)
    return file


@functools.cache
def _made() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tiny-anima-"))
    qwen, t5 = words(end=False), words(end=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_module(folder / "transformer", tiny_transformer())
        write_module(folder / "text_conditioner", tiny_conditioner(len(t5)))
        write_module(folder / "vae", tiny_vae())
        tiny_qwen(len(qwen)).save_pretrained(folder / "text_encoder")
    qwen.save_pretrained(folder / "tokenizer")
    t5.save_pretrained(folder / "t5_tokenizer")
    write_json(
        folder / "scheduler" / "scheduler_config.json",
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
    )
    write_json(folder / "model_index.json", {"_class_name": "AnimaModularPipeline", **CLASSES})
    return folder


def tiny_transformer() -> CosmosTransformer3DModel:
    return CosmosTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=32,
        num_layers=2,
        text_embed_dim=32,
        adaln_lora_dim=8,
        rope_scale=(1.0, 4.0, 4.0),
        max_size=(128, 240, 240),
        extra_pos_embed_type=None,
    )


def tiny_conditioner(vocabulary: int) -> AnimaTextConditioner:
    made = AnimaTextConditioner(
        source_dim=48,
        target_dim=32,
        model_dim=32,
        num_layers=2,
        num_attention_heads=2,
        target_vocab_size=vocabulary,
    )
    with torch.no_grad():
        made.out_proj.bias.normal_()
    return made


def tiny_vae() -> AutoencoderKLQwenImage:
    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=16, dim_mult=[1, 2], num_res_blocks=RESNETS - 1, temperal_downsample=[True]
    )


def tiny_qwen(vocabulary: int) -> Qwen3Model:
    return Qwen3Model(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=24,
            rope_theta=1_000_000.0,
            max_position_embeddings=32_768,
            tie_word_embeddings=True,
        )
    )


def words(*, end: bool) -> Any:
    """One token per word: as Qwen's, without any mark, or as T5's, with an end mark."""
    tokens = ["<pad>", "</s>", "<unk>", *WORDS, *([] if end else ["another"])]
    core = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if end:
        core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
