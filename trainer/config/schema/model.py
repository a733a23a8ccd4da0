"""[model]: the base, and how it is read."""

from __future__ import annotations

from typing import Any, Literal

from trainer.config.schema.base import Section, key


class ModelSettings(Section):
    base: str = key(
        "",
        "The checkpoint to train: a single file, a diffusers folder or a hub id.",
        basic=True,
        path="base",
    )
    family: str = key("auto", "Architecture; auto recognises it from the files.")
    prediction: str = key("auto", "What the model predicts; auto asks the base.")
    zero_terminal_snr: Literal["auto", "on", "off"] = key(
        "auto",
        "on: rescale the noise schedule so that its last timestep is pure noise; auto asks the base.",
    )
    init: str | list[str] = key(
        "pretrained",
        "Which parts start anew, with the base's architecture alone: 'unet' (the papers' recipe: a random UNet under "
        "the pretrained text encoder), a list such as ['unet', 'text_encoder'], or 'random' = all of them. What starts "
        "anew must train as a whole (training.method = 'full').",
    )
    network: dict[str, Any] = key(
        {},
        "A new network instead of a base, for families that make one (docs/pixel-space.md): its keys, such as "
        "{ sample_size = 32 }. Needs model.family and training.method = 'full'.",
    )
    classes: list[str] | str = key(
        [],
        "Names of the classes that a new network tells apart, and that 'sample --per-class' draws: a list, a text file "
        "with a name in each line, or a folder with a folder for each class.",
        path="either",
    )
    vae: str = key("", "Another VAE than the base's: a file or a diffusers folder.", path="either")
    vae_precision: Literal["fp32", "bf16", "fp16"] = key(
        "fp32",
        "Arithmetic of the VAE. bf16 and fp16 take less time and memory on a GPU and change latents a little: the run "
        "says by how much before it encodes. SDXL's own VAE does not bear fp16, which is "
        "an error then.",
    )
    text_encoder: str = key(
        "",
        "Another text encoder than the base's, for families that have it in a file of its own; empty looks beside the "
        "base.",
        path="either",
    )
    clip_skip: int = key(
        0,
        "The text encoder's layer that is used, counted from the end; 0 and 1 = the last. SDXL ignores it.",
        ge=0,
        le=32,
    )
    max_tokens: Literal[75, 150, 225] = key(75, "Longest caption in tokens; the rest is cut off.")
    weighted_captions: bool = key(
        False, "Read (word:1.3) and [word] in captions as weights, as A1111 does, instead of as text."
    )
    tokenizer: str = key("", "A folder with the tokenizer; empty looks beside the base, then elsewhere.", path="folder")
