"""Stable Diffusion 1.x and 2.x: one text encoder, a UNet on 4 latent channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from plugins.models import _clip, _loading, _text, _unet
from plugins.models._latent_diffusion import Components, LatentDiffusion, NoiseSchedule
from plugins.models._single_file import Layout
from plugins.models._text import TextSettings
from trainer.batch import Geometry, TextStates

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
LAYOUTS = {
    "sd1": Layout(
        prefixes={"unet": _UNET, "vae": _VAE, "text_encoder": "cond_stage_model.transformer.text_model."},
        text={"text_encoder": "clip"},
        head_width=None,
        vae_scale=0.18215,
        prediction="epsilon",
    ),
    "sd2": Layout(
        prefixes={"unet": _UNET, "vae": _VAE, "text_encoder": "cond_stage_model.model."},
        text={"text_encoder": "open_clip_without_last"},
        head_width=64,
        vae_scale=0.18215,
        prediction=None,  # the 512 pixel base predicts epsilon, the 768 pixel one v, and their files look the same
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
    def load(
        cls,
        base: str,
        *,
        prediction: str = "auto",
        init: str = "pretrained",
        tokenizer: str = "",
        vae: str = "",
        clip_skip: int = 0,
        max_tokens: int = 75,
        weighted_captions: bool = False,
    ) -> StableDiffusion:
        """Loads a base on the CPU in float32, everything frozen and in eval mode. Raises UserError.

        init "random" takes only the architecture: UNet and text encoder start anew from torch's random state, while the
        VAE, the tokenizer and the noise schedule are the base's. init "outline" reads no weights: all networks are on
        the meta device.
        """
        source = _loading.open_base(base, LAYOUTS, init)
        fresh = init == "random"
        encoder = _loading.text_encoder(source, "text_encoder", projection=False, fresh=fresh)
        unet = _loading.unet(source, encoder.config.hidden_size, fresh=fresh)
        second = _is_v2(encoder, unet.config)
        layout = LAYOUTS["sd2" if second else "sd1"]
        autoencoder, vae_source = _loading.vae(source, vae, layout)
        words = _loading.tokenizer(source, "tokenizer", tokenizer, encoder, zero_padding=second)
        if init == _loading.OUTLINE and prediction == "auto":
            prediction = cls.predicts(base) or "epsilon"  # the UNet cannot be asked
        schedule, notes = _schedule(source.config("scheduler"), prediction, unet, source.where("scheduler"))
        components = Components(
            unet=unet,
            vae=autoencoder,
            text_encoders={"text_encoder": encoder},
            tokenizers={"tokenizer": words},
            schedule=schedule,
            layout=layout,
            sources={"vae": vae_source} | ({} if fresh else {"unet": source, "text_encoder": source}),
            notes=notes,
        )
        return cls(components, TextSettings.of(clip_skip, max_tokens, weighted_captions))

    def encode_text(self, captions: Sequence[str]) -> TextStates:
        """The chosen layer's states after the final layer norm: hidden (B, T, E) float32, nothing pooled."""
        positions = self.text_encoder.config.max_position_embeddings
        given = _text.tokens(self.tokenizer, captions, positions, self.text_settings)
        layer = max(1, self.text_settings.clip_skip)
        return TextStates(_text.encode(self.text_encoder, given, layer_from_end=layer, final_norm=True).hidden)

    def _text_use(self) -> dict[str, tuple[int, bool]]:
        return {"text_encoder": (max(0, self.text_settings.clip_skip - 1), True)}

    def predict(self, noisy: Tensor, timesteps: Tensor, text: TextStates, geometry: Geometry) -> Tensor:
        """The UNet's output, (B, C, h, w)."""
        dtype = self._unet_dtype
        return self.unet(noisy.to(dtype), timesteps, text.hidden.to(dtype)).sample

    def adapter_key(self, part: str, module: str) -> str:
        """kohya's name of a module in a LoRA file."""
        return _unet.adapter_key(module) if part == "unet" else _clip.adapter_key("lora_te", module)

    def adapter_aliases(self, part: str, module: str) -> list[str]:
        """Also read: the original block names, lora_te1_ as diffusers' converter writes it, diffusers' dotted names."""
        if part == "unet":
            return _unet.adapter_aliases(module, self.unet.config)
        return _clip.adapter_aliases(part, "lora_te1", module)


def _is_v2(encoder: Any, unet: Any) -> bool:
    """SD 2.x of any size: OpenCLIP's activation, and linear projections around the transformers."""
    return bool(encoder.config.hidden_act == "gelu" and unet.use_linear_projection)


def _schedule(config: dict[str, Any], prediction: str, unet: Any, where: str) -> tuple[NoiseSchedule, tuple[str, ...]]:
    """The schedule, and what was assumed: where nothing tells what the base predicts, the UNet is asked."""
    if prediction != "auto" or config.get("prediction_type", "epsilon") is not None:
        return NoiseSchedule.read(config, prediction, where), ()
    found = "velocity" if predicts_velocity(unet) else "epsilon"
    note = f"model.prediction: the file does not say what it predicts; its answer to pure noise says {found}"
    return NoiseSchedule.read(config, found, where), (note,)


@torch.no_grad()
def predicts_velocity(unet: Any) -> bool:
    """Whether a UNet predicts v, from what it returns for a constant latent of 0.5 at the noisiest timestep.

    There an epsilon model takes its input for noise and returns it, a v model does not. The threshold of -1 for the
    mean difference is that of A1111's web UI.
    """
    channels, width = unet.config.in_channels, unet.config.cross_attention_dim
    weight = next(unet.parameters())
    latent = torch.full((1, channels, 8, 8), 0.5, dtype=weight.dtype, device=weight.device)
    text = torch.zeros(1, 77, width, dtype=weight.dtype, device=weight.device)
    answer = unet(latent, torch.tensor([999], device=weight.device), text).sample
    return float((answer - latent).mean()) < -1


PLUGIN = StableDiffusion
