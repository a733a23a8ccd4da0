"""Stable Diffusion 1.x and 2.x: one text encoder, a UNet on 4 latent channels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionPipeline
from torch import Tensor

from plugins.models import _clip, _fill, _loading, _lora_names, _text, _unet
from plugins.models._latent_diffusion import Components, LatentDiffusion, StoredSchedule
from plugins.models._single_file import Layout
from plugins.models._text import TextSettings
from trainer.batch import Geometry, Shown, TextStates

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
LAYOUTS = {
    "sd1": Layout(
        prefixes={"unet": _UNET, "vae": _VAE, "text_encoder": "cond_stage_model.transformer.text_model."},
        text={"text_encoder": "clip"},
        head_width=None,
        vae_scale=0.18215,
    ),
    "sd2": Layout(
        prefixes={"unet": _UNET, "vae": _VAE, "text_encoder": "cond_stage_model.model."},
        text={"text_encoder": "open_clip_without_last"},
        head_width=64,
        vae_scale=0.18215,
    ),
}
_ARCHITECTURES = {
    "sd_v1": "stable-diffusion-v1",
    "sd_v1_v": "stable-diffusion-v1",
    "sd_v2": "stable-diffusion-v2-512",
    "sd_v2_v": "stable-diffusion-v2-768-v",
}


class StableDiffusion(LatentDiffusion):
    """SD 1.x and 2.x of any size; `load` finds the parts."""

    name = "sd"
    implementation = "diffusers"
    layouts = LAYOUTS
    pipeline_class = StableDiffusionPipeline
    fill_class = StableDiffusionInpaintPipeline
    embedding_keys: ClassVar[dict[str, tuple[str, ...]]] = {
        "text_encoder": ("emb_params", "emp_params", "clip_l", "clip_h")  # A1111's, OneTrainer's (sic) and its bundles'
    }
    pipeline_extras: ClassVar[dict[str, Any]] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }

    def __init__(self, components: Components, text: TextSettings | None = None) -> None:
        super().__init__(components, text)
        self.text_encoder = components.text_encoders["text_encoder"]
        self.tokenizer = components.tokenizers["tokenizer"]
        _text.check_skip(self.text_settings.clip_skip, self.text_encoder, "model.clip_skip")

    @property
    def base_version(self) -> str:
        """kohya's ss_base_model_version: sd_v1 or sd_v2, "_v" appended for v-prediction."""
        version = "sd_v2" if _is_v2(self.text_encoder, self.unet.config) else "sd_v1"
        return version + ("_v" if self.prediction == "velocity" else "")

    @property
    def architecture(self) -> str:
        """Stability's modelspec.architecture."""
        return _ARCHITECTURES[self.base_version]

    @classmethod
    def recognises_lora(cls, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str]) -> str | None:
        """By its metadata, else by the width of the text that its attention sees, else by its text encoder's prefix."""
        version = metadata.get("ss_base_model_version", "")
        if version:
            return version if version.startswith(("sd_v1", "sd_v2")) else None
        width = _unet.lora_text_width(shapes)
        known = {768: "sd_v1", 1024: "sd_v2"}
        if width in known:
            return known[width]
        return "sd_v1" if any(name.startswith("lora_te_") for name in shapes) else None

    @classmethod
    def lora_names(cls, shapes: Mapping[str, Sequence[Sequence[int]]], *, sure: bool) -> dict[str, str]:
        """kohya's names of a LoRA's modules, which are diffusers' blocks."""
        return _lora_names.kohyas(shapes, {"text_encoder": "lora_te"}, False if sure else None)

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
    ) -> StableDiffusion:
        """Loads a base on the CPU, everything frozen and in eval mode. Raises UserError.

        dtype: of all but the VAE, which is float32; None = the files'.

        init: the names of parts that take only the base's architecture and start anew from torch's random state, or
        "random" for all of them; VAE, tokenizer and noise schedule are the base's. init "outline" reads no weights: all
        networks are on the meta device.
        """
        _loading.refuse_text_encoder(text_encoder)
        source = _loading.open_base(base, LAYOUTS, init)
        fresh = _loading.new_parts(init, ("unet", "text_encoder"))
        encoder = _loading.text_encoder(source, "text_encoder", dtype, projection=False, fresh="text_encoder" in fresh)
        unet = _loading.unet(source, encoder.config.hidden_size, dtype, fresh="unet" in fresh)
        second = _is_v2(encoder, unet.config)
        layout = LAYOUTS["sd2" if second else "sd1"]
        autoencoder, vae_source = _loading.vae(source, vae, layout)
        words = _loading.tokenizer(source, "tokenizer", tokenizer, encoder, zero_padding=second)
        blank = init == _loading.OUTLINE or "unet" in fresh
        schedule, notes = StoredSchedule.asked(
            source.config("scheduler"), prediction, unet, source.where("scheduler"), blank=blank
        )
        components = Components(
            unet=unet,
            vae=autoencoder,
            text_encoders={"text_encoder": encoder},
            tokenizers={"tokenizer": words},
            schedule=schedule,
            layout=layout,
            sources={"vae": vae_source} | {p: source for p in ("unet", "text_encoder") if p not in fresh},
            notes=notes,
        )
        return cls(components, TextSettings.of(clip_skip, max_tokens, weighted_captions))

    def encode_text(self, captions: Sequence[str]) -> TextStates:
        """The chosen layer's states after the final layer norm: hidden (B, T, E) float32, nothing pooled."""
        given = self._tokens("text_encoder", captions)
        layer = max(1, self.text_settings.clip_skip)
        states = _text.encode(self.text_encoder, given, layer_from_end=layer, final_norm=True)
        return TextStates({"hidden": states.hidden})

    def _text_use(self) -> dict[str, tuple[int, bool]]:
        return {"text_encoder": (max(0, self.text_settings.clip_skip - 1), True)}

    def predict(
        self, noisy: Tensor, timesteps: Tensor, text: TextStates, geometry: Geometry, shown: Shown | None = None
    ) -> Tensor:
        """The UNet's output, (B, C, h, w)."""
        dtype = self._unet_dtype
        given = _fill.joined(noisy.to(dtype), shown)
        return self.unet(given, timesteps, text["hidden"].to(dtype)).sample

    def adapter_key(self, part: str, module: str) -> str:
        """kohya's name of a module in a LoRA file."""
        return _unet.adapter_key(module) if part == "unet" else _lora_names.text_key("lora_te", module)

    def adapter_aliases(self, part: str, module: str) -> list[str]:
        """Also read: the original block names, lora_te1_ as diffusers' converter writes it, all dotted names."""
        if part == "unet":
            return _unet.adapter_aliases(module, self.unet.config)
        return _clip.adapter_aliases(part, module)


def _is_v2(encoder: Any, unet: Any) -> bool:
    """SD 2.x of any size: OpenCLIP's activation, and linear projections around the transformers."""
    return bool(encoder.config.hidden_act == "gelu" and unet.use_linear_projection)


PLUGIN = StableDiffusion
