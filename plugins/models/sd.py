"""Stable Diffusion 1.x: one CLIP text encoder, a UNet on 4 latent channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from plugins.models import _clip, _diffusers_folder, _modules, _noise_schedule, _tokenizer, _unet, _vae
from plugins.models._latent_diffusion import LatentDiffusion, NoiseSchedule
from plugins.models._modules import Network
from trainer.batch import Geometry, TextStates
from trainer.errors import UserError

_SD2_TEXT_WIDTH = 1024


class StableDiffusion(LatentDiffusion):
    """SD 1.x of any size; the constructor takes finished parts, `load` finds them."""

    name = "sd"
    text_parts = ("text_encoder",)

    def __init__(
        self,
        unet: Network,
        vae: Network,
        text_encoder: Network,
        tokenizer: Any,
        schedule: NoiseSchedule,
    ) -> None:
        super().__init__(unet, vae, schedule)
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.parts["text_encoder"] = text_encoder

    @property
    def base_version(self) -> str:
        """kohya's ss_base_model_version: sd_v1 or sd_v2, "_v" appended for v-prediction."""
        version = "sd_v2" if self.unet.config.cross_attention_dim == _SD2_TEXT_WIDTH else "sd_v1"
        return version + ("_v" if self.prediction == "velocity" else "")

    @property
    def architecture(self) -> str:
        """Stability's modelspec.architecture."""
        return _ARCHITECTURES.get(self.base_version, "stable-diffusion-v1")

    @classmethod
    def recognises(cls, base: str) -> str | None:
        """Claims diffusers folders with one text encoder and a UNet."""
        folder = _diffusers_folder.find(base)
        if folder is None:
            return None
        parts = folder.index()
        if "unet" in parts and "text_encoder" in parts and "text_encoder_2" not in parts:
            return "a diffusers folder with a UNet and one text encoder"
        return None

    @classmethod
    def load(
        cls, base: str, *, prediction: str = "auto", init: str = "pretrained", tokenizer: str = "", vae: str = ""
    ) -> StableDiffusion:
        """Loads a diffusers folder on the CPU in float32, everything frozen and in eval mode. Raises UserError.

        init "random" takes only the architecture: UNet and text encoder start anew from torch's random state, while the
        VAE, the tokenizer and the noise schedule are the folder's.
        """
        folder = _diffusers_folder.find(base)
        if folder is None:
            raise UserError(f"{base}: no diffusers folder (there is no model_index.json in it)")
        fresh = init == "random"
        unet_state = None if fresh else folder.weights("unet")
        text_state = None if fresh else folder.weights("text_encoder")
        text_encoder = _clip.build(folder.config("text_encoder"), text_state, str(folder.path / "text_encoder"))
        words = Path(tokenizer) if tokenizer else folder.path / "tokenizer"
        loaded = _tokenizer.load(words)
        _tokenizer.check(loaded, text_encoder.config.vocab_size, str(words))
        unet = _unet.build(folder.config("unet"), unet_state, str(folder.path / "unet"))
        _check_fit(unet, text_encoder, str(folder.path))
        return cls(
            unet=unet,
            vae=_load_vae(folder, vae),
            text_encoder=text_encoder,
            tokenizer=loaded,
            schedule=NoiseSchedule.read(folder.config("scheduler"), prediction, str(folder.path / "scheduler")),
        )

    def encode_text(self, captions: Sequence[str]) -> TextStates:
        """The last hidden state after the final layer norm: hidden (B, T, E) float32, nothing pooled."""
        positions = self.text_encoder.config.max_position_embeddings
        ids = _tokenizer.ids(self.tokenizer, captions, positions)
        return TextStates(self.text_encoder(ids.to(self.text_encoder.device)).last_hidden_state.float())

    def predict(self, noisy: Tensor, timesteps: Tensor, text: TextStates, geometry: Geometry) -> Tensor:
        """The UNet's output, (B, C, h, w)."""
        dtype = self._unet_dtype
        return self.unet(noisy.to(dtype), timesteps, text.hidden.to(dtype)).sample

    def adapter_targets(self, part: str, *, conv: bool) -> list[str]:
        """kohya's selection of modules of a part; `conv` adds the UNet's ResNets and samplers (LoCon)."""
        if part == "unet":
            return _unet.adapter_targets(self.unet, conv=conv)
        return _clip.adapter_targets(self.text_encoder)

    def adapter_key(self, part: str, module: str) -> str:
        """kohya's name of a module in a LoRA file."""
        return _unet.adapter_key(module) if part == "unet" else _clip.adapter_key("lora_te", module)

    def pipeline(self) -> StableDiffusionPipeline:
        """A pipeline over the live modules. In mixed precision ask for `output_type="latent"` under autocast and decode
        with `decode_latents`, which keeps the VAE in float32."""
        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self._sampler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Writes a complete diffusers folder with weights as `dtype`; adapters that are not merged are left out."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = _diffusers_folder.DIFFUSERS_STEM
        _diffusers_folder.write_part(
            folder / "unet", stem, _diffusers_folder.config_of(self.unet), _modules.base_weights(self.unet, dtype)
        )
        _diffusers_folder.write_part(
            folder / "vae", stem, _diffusers_folder.config_of(self.vae), _modules.base_weights(self.vae, dtype)
        )
        _diffusers_folder.write_part(
            folder / "text_encoder",
            _diffusers_folder.TRANSFORMERS_STEM,
            _clip.config_of(self.text_encoder, dtype),
            _clip.prefixed_names(_modules.base_weights(self.text_encoder, dtype)),
        )
        _tokenizer.save(self.tokenizer, folder / "tokenizer")
        self._sampler().save_pretrained(folder / "scheduler")
        words = ["transformers", _tokenizer.class_name(self.tokenizer)]
        _diffusers_folder.write_json(folder / "model_index.json", {**_INDEX, "tokenizer": words})

    def _sampler(self) -> Any:
        return _noise_schedule.sampler(self.schedule.config, self.prediction)


_ARCHITECTURES = {"sd_v2": "stable-diffusion-v2-512", "sd_v2_v": "stable-diffusion-v2-768-v"}

_INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.20.0",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def _load_vae(folder: _diffusers_folder.DiffusersFolder, other: str) -> Network:
    """The folder's VAE, or the one in the diffusers folder (or its vae/) that `other` names."""
    if not other:
        return _vae.build(folder.config("vae"), folder.weights("vae"), str(folder.path / "vae"))
    path = Path(other)
    source = _diffusers_folder.DiffusersFolder(path if (path / "vae").is_dir() else path.parent)
    part = "vae" if (path / "vae").is_dir() else path.name
    return _vae.build(source.config(part), source.weights(part), other)


def _check_fit(unet: Network, text_encoder: Network, where: str) -> None:
    """Raises UserError when the UNet is not a text-to-image one or expects another text encoder."""
    channels, out = unet.config.in_channels, unet.config.out_channels
    if channels != out:
        kind = "an inpainting or image-conditioned model" if channels > out else "an unknown kind of model"
        raise UserError(
            f"{where}: the UNet takes {channels} channels and returns {out}: {kind}, which cannot be trained"
        )
    if unet.config.cross_attention_dim != text_encoder.config.hidden_size:
        raise UserError(
            f"{where}: the UNet expects text states of width {unet.config.cross_attention_dim}, "
            f"the text encoder makes {text_encoder.config.hidden_size}"
        )


PLUGIN = StableDiffusion
