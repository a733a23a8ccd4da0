"""Stable Diffusion XL: two text encoders, pooled text and picture sizes as further conditions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline
from torch import Tensor

from plugins.models import _clip, _fill, _loading, _lora_names, _text, _unet
from plugins.models._latent_diffusion import Components, LatentDiffusion, StoredSchedule
from plugins.models._original_names import unet_names
from plugins.models._single_file import Layout
from plugins.models._text import TextSettings
from trainer.batch import Geometry, Shown, TextStates

LAYOUT = Layout(
    prefixes={
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.text_model.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    text={"text_encoder": "clip", "text_encoder_2": "open_clip"},
    head_width=64,
    vae_scale=0.13025,
)
_PENULTIMATE = 2  # both encoders give the states before their last layer, without the final layer norm
_KOHYA_PREFIX = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


class StableDiffusionXL(LatentDiffusion):
    """SDXL base and its fine-tunes, of any size; `load` finds the parts."""

    name = "sdxl"
    implementation = "https://github.com/Stability-AI/generative-models"
    layouts: ClassVar[dict[str, Layout]] = {"sdxl": LAYOUT}
    base_version = "sdxl_base_v1-0"
    architecture = "stable-diffusion-xl-v1-base"
    pipeline_class = StableDiffusionXLPipeline
    fill_class = StableDiffusionXLInpaintPipeline
    embedding_keys: ClassVar[dict[str, tuple[str, ...]]] = {"text_encoder": ("clip_l",), "text_encoder_2": ("clip_g",)}
    pipeline_extras: ClassVar[dict[str, Any]] = {"force_zeros_for_empty_prompt": True}

    def __init__(self, components: Components, text: TextSettings | None = None) -> None:
        super().__init__(components, text)
        self.encoders = tuple(components.text_encoders.values())
        self.tokenizers = tuple(components.tokenizers.values())
        self._names = unet_names(dict(components.unet.config))

    @classmethod
    def recognises_lora(cls, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str]) -> str | None:
        """By its metadata, else by the width of the text that its attention sees, else by its text encoders' names."""
        version = metadata.get("ss_base_model_version", "")
        if version:
            return version if version.startswith("sdxl") else None
        if _unet.lora_text_width(shapes) == 2048:
            return cls.base_version
        prefixes = ("lora_te2_", "text_encoder_2.", "lora_unet_input_blocks_4_1_transformer_blocks_1_")
        return cls.base_version if any(name.startswith(prefixes) for name in shapes) else None

    @classmethod
    def lora_names(cls, shapes: Mapping[str, Sequence[Sequence[int]]], *, sure: bool) -> dict[str, str]:
        """kohya's names of a LoRA's modules, which are the original layout's blocks."""
        return _lora_names.kohyas(shapes, _KOHYA_PREFIX, True if sure else None)

    @classmethod
    def load(
        cls,
        base: str,
        *,
        prediction: str = "auto",
        init: str | Collection[str] = "pretrained",
        tokenizer: str = "",
        vae: str = "",
        text_encoder: str = "",
        clip_skip: int = 0,
        max_tokens: int = 75,
        weighted_captions: bool = False,
        dtype: torch.dtype | None = torch.float32,
    ) -> StableDiffusionXL:
        """Loads a base on the CPU, everything frozen and in eval mode. Raises UserError.

        dtype: of all but the VAE, which is float32; None = the files'.

        init: the names of parts that take only the base's architecture and start anew from torch's random state, or
        "random" for all of them; VAE, tokenizer and noise schedule are the base's. init "outline" reads no weights: all
        networks are on the meta device. clip_skip has no effect: SDXL always uses the last but
        one layers.
        """
        _loading.refuse_text_encoder(text_encoder)
        source = _loading.open_base(base, cls.layouts, init)
        fresh = _loading.new_parts(init, ("unet", "text_encoder", "text_encoder_2"))
        encoders = {
            part: _loading.text_encoder(source, part, dtype, projection=part == "text_encoder_2", fresh=part in fresh)
            for part in ("text_encoder", "text_encoder_2")
        }
        unet = _loading.unet(source, sum(e.config.hidden_size for e in encoders.values()), dtype, fresh="unet" in fresh)
        autoencoder, vae_source = _loading.vae(source, vae, LAYOUT)
        tokenizers = {
            words: _loading.tokenizer(source, words, tokenizer, encoders[part], zero_padding=part == "text_encoder_2")
            for words, part in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
        }
        blank = init == _loading.OUTLINE or "unet" in fresh
        schedule, notes = StoredSchedule.asked(
            source.config("scheduler"), prediction, unet, source.where("scheduler"), blank=blank
        )
        components = Components(
            unet=unet,
            vae=autoencoder,
            text_encoders=encoders,
            tokenizers=tokenizers,
            schedule=schedule,
            layout=LAYOUT,
            sources={"vae": vae_source} | {p: source for p in ("unet", *encoders) if p not in fresh},
            notes=notes,
        )
        return cls(components, TextSettings.of(clip_skip, max_tokens, weighted_captions))

    def encode_text(self, captions: Sequence[str]) -> TextStates:
        """hidden (B, T, E1 + E2) float32, of both encoders' last but one layers; pooled (B, P) of the second."""
        encoded = []
        for part, encoder in self.components.text_encoders.items():
            given = self._tokens(part, captions)
            encoded.append(_text.encode(encoder, given, layer_from_end=_PENULTIMATE, final_norm=False))
        pooled = encoded[-1].pooled
        assert pooled is not None
        return TextStates({"hidden": torch.cat([e.hidden for e in encoded], dim=-1), "pooled": pooled})

    def _text_use(self) -> dict[str, tuple[int, bool]]:
        return {"text_encoder": (_PENULTIMATE - 1, False), "text_encoder_2": (0, True)}  # the pooled states use it all

    def predict(
        self, noisy: Tensor, timesteps: Tensor, text: TextStates, geometry: Geometry, shown: Shown | None = None
    ) -> Tensor:
        """The UNet's output, (B, C, h, w).

        The sizes are told as (height, width) and (top, left): original, crop, target (Podell et al. 2023,
        arXiv 2307.01952, section 2.2), in float32: bfloat16 has no 1023.
        """
        dtype = self._unet_dtype
        sizes = torch.cat([geometry.original, geometry.crop, geometry.target], dim=1)  # (B, 6)
        added = {"text_embeds": text["pooled"].to(dtype), "time_ids": sizes.to(noisy.device, torch.float32)}
        given = _fill.joined(noisy.to(dtype), shown)
        return self.unet(given, timesteps, text["hidden"].to(dtype), added_cond_kwargs=added).sample

    def adapter_key(self, part: str, module: str) -> str:
        """kohya's name of a module in a LoRA file; the UNet's modules go by their names in the original layout."""
        if part == "unet":
            return _unet.adapter_key(str(self._names.to_original(module)))
        return _lora_names.text_key(_KOHYA_PREFIX[part], module)

    def adapter_aliases(self, part: str, module: str) -> list[str]:
        """Also read: diffusers' block names in kohya's spelling, and all dotted names."""
        if part == "unet":
            return _unet.adapter_aliases(module, self.unet.config)
        return _clip.adapter_aliases(part, module)


PLUGIN = StableDiffusionXL
