"""Anima: a Cosmos-Predict2 transformer with a conditioner, Qwen3 as text encoder and Qwen-Image's VAE; a flow."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from plugins.models import (
    _anima_files,
    _anima_names,
    _anima_networks,
    _anima_save,
    _anima_text,
    _loading,
    _modules,
)
from plugins.models._anima_config import TOKENS
from plugins.models._anima_files import Source
from plugins.models._anima_networks import Filling
from plugins.models._anima_sampler import AnimaSampler
from plugins.models._from_a_base import FromABase
from plugins.models._modules import Network
from plugins.models._unet import layers_within
from trainer.batch import AdapterWeights, Geometry, NewWord, NoiseSchedule, Shown, TextStates
from trainer.errors import UserError

_CONTAINERS = {  # of the layers that sd-scripts' LoRAs adapt
    "transformer": ("Attention", "FeedForward"),
    "text_encoder": ("Qwen3Attention", "Qwen3MLP"),
}
_FLOW = ("auto", "flow", "rectified_flow", "flow_prediction")
_USUAL_TOKENS = 75  # model.max_tokens where nobody sets it


class Anima(FromABase):
    """Any size of it; `load` finds the parts."""

    name = "anima"
    base_version = "anima"
    architecture = "anima-preview"
    implementation = "https://huggingface.co/circlestone-labs/Anima"
    prediction = "flow"
    text_parts: tuple[str, ...] = ("text_encoder",)
    file_parts: tuple[str, ...] = ("transformer",)
    kohya_scale: float | None = None
    notes: tuple[str, ...] = ()
    either_way: ClassVar[tuple[str, ...]] = ()
    drawn: ClassVar[Mapping[str, Any]] = {"guidance": 4.0, "width": 1024, "height": 1024}

    def __init__(
        self, transformer: Network, text_encoder: Network, vae: Network, tokenizers: Mapping[str, Any], source: Source
    ) -> None:
        self.transformer, self.text_encoder, self.vae = transformer, text_encoder, vae
        self.vae_dtype = torch.float32
        self.tokenizers, self.source = tokenizers, source
        self.parts: dict[str, nn.Module] = {"transformer": transformer, "text_encoder": text_encoder}
        config = dict(source.config("scheduler"))
        self.scheduler: Any = _modules.build(
            lambda: FlowMatchEulerDiscreteScheduler.from_config(config), source.where("scheduler"), empty=False
        )
        self.schedule = NoiseSchedule(int(self.scheduler.config.num_train_timesteps))
        self.latent_channels = int(vae.config.z_dim)
        self.latent_factor = 2 ** len(vae.config.temperal_downsample)
        self.size_multiple = self.latent_factor * int(transformer.config.patch_size[-1])

    @classmethod
    def recognises(cls, base: str) -> str | None:
        """Claims a diffusion model's file with a conditioner in it, and diffusers' folders."""
        if _anima_files.is_folder(base):
            return "a diffusers folder of Anima"
        return "an Anima diffusion model (one file)" if _anima_files.is_file(base) else None

    @classmethod
    def describes(cls, base: str) -> str | None:
        return cls.recognises(base)

    @classmethod
    def predicts(cls, base: str) -> str | None:
        return cls.prediction

    @classmethod
    def recognises_lora(cls, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str]) -> str | None:
        """By its metadata, else by layers that no other family has."""
        version = metadata.get("ss_base_model_version", "")
        if version:
            return version if version.startswith(cls.base_version) else None
        return cls.base_version if _anima_names.is_of_lora(shapes) else None

    @classmethod
    def lora_names(cls, shapes: Mapping[str, Sequence[Sequence[int]]], *, sure: bool) -> dict[str, str]:
        """sd-scripts' names of a LoRA's modules, for those that are understood."""
        return {name: known for name in shapes if (known := _anima_names.kohya_name(name)) is not None}

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
        max_tokens: int = _USUAL_TOKENS,
        weighted_captions: bool = False,
        dtype: torch.dtype | None = torch.float32,
    ) -> Anima:
        """Loads a base on the CPU, everything frozen and in eval mode. Raises UserError.

        init: the names of parts that take only the base's architecture and start anew, or "random" for all of them; of
        the VAE, the tokenizers and the schedule nothing is new. init "outline" reads no weights.
        """
        _refuse(prediction, clip_skip, max_tokens, weighted_captions)
        source = _anima_files.open_base(base, text_encoder, vae)
        fresh = _loading.new_parts(init, ("transformer", "text_encoder"))
        filling = Filling(source, init == _loading.OUTLINE, dtype)
        encoder = _anima_networks.text_encoder(filling, fresh="text_encoder" in fresh)
        network = _anima_networks.transformer(filling, fresh="transformer" in fresh)
        _refuse_widths(encoder, network, source)
        vocabularies = {
            "tokenizer": int(encoder.config.vocab_size),
            "t5_tokenizer": int(network.text_conditioner.config.target_vocab_size),
        }
        words = _anima_text.find(source, tokenizer, vocabularies)
        return cls(network, encoder, _anima_networks.vae(filling), words, source)

    def use_zero_terminal_snr(self, on: bool) -> None:
        """Raises UserError: a flow ends in pure noise as it is."""
        if on:
            raise UserError(
                "model.zero_terminal_snr: this base is a flow, which ends in pure noise anyway; leave 'auto'."
            )

    @classmethod
    def tokenizer_of(cls, base: str, tokenizer: str = "", words: Sequence[NewWord] = ()) -> Any:
        """T5's, whose tokens become what the transformer reads. Raises UserError when there is none."""
        source = _anima_files.Folder(Path(base)) if _anima_files.is_folder(base) else _anima_files.bare(Path(base))
        return _anima_text.find_one("t5_tokenizer", source, tokenizer, 2**31)

    @classmethod
    def token_room(cls, tokenizer: Any, max_tokens: int) -> int:
        """Without the end mark."""
        return TOKENS - 1

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w) float32: the posterior's mean, of about mean 0 and variance 1. A
        picture is a video of one frame, which is left out here and put back for the networks."""
        return _anima_networks.posterior(self.vae, pixels, self.vae_dtype)[0]

    def encode_posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, standard deviation) of the latents' posterior, both (B, C, h, w) float32."""
        return _anima_networks.posterior(self.vae, pixels, self.vae_dtype)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W), about [-1, 1], float32."""
        return _anima_networks.decode(self.vae, latents, self.vae_dtype)

    def text_recipe(self) -> str:
        """Both tokenizers, and where captions are cut."""
        return _anima_text.recipe(self.tokenizers)

    def encode_text(self, captions: Sequence[str]) -> TextStates:
        """hidden (B, T, E) float32 and words (B, W) long, each with its mask."""
        return _anima_text.encode(self.text_encoder, self.tokenizers, captions)

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: TextStates,
        geometry: Geometry | None = None,
        shown: Shown | None = None,
    ) -> Tensor:
        """The velocity from picture to noise, (B, C, h, w). The transformer's own time runs from 0 to 1."""
        return _anima_networks.predict(self.transformer, noisy, timesteps.float() / self.schedule.steps, text.tensors)

    def adapter_targets(self, part: str, *, conv: bool) -> list[str]:
        """sd-scripts' selection: attention and MLP of the transformer's blocks, without modulation, embeddings and the
        conditioner; of the text encoder the same. There are no convolutions that `conv` could add."""
        return layers_within(self.parts[part], _CONTAINERS[part])

    def adapter_key(self, part: str, module: str) -> str:
        return _anima_names.lora_key(part, module)

    def adapter_aliases(self, part: str, module: str) -> list[str]:
        return _anima_names.lora_aliases(part, module)

    def read_lora(self, path: Path) -> dict[str, AdapterWeights] | None:
        """None: diffusers' loader knows no LoRA in sd-scripts' names for this family."""
        return None

    def unused_parameters(self) -> Iterable[nn.Parameter]:
        """The output depends on all of them."""
        return ()

    def pipeline(self) -> AnimaSampler:
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        return AnimaSampler(self.predict, scheduler, self.latent_channels, self.latent_factor, self.transformer.device)

    def prompt_arguments(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Any]:
        return {"prompt_states": self.encode_text(prompts), "negative_states": self.encode_text(negatives)}

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Writes a complete diffusers folder; adapters that are not merged are left out."""
        networks = {"transformer": self.transformer, "text_encoder": self.text_encoder, "vae": self.vae}
        _anima_save.folder(folder, networks, self.tokenizers, self.scheduler, self.source, dtype)

    def save_file(self, path: Path, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
        """Writes the diffusion model's file, as ComfyUI and sd-scripts keep it beside those of text encoder and VAE."""
        _anima_save.file(path, self.transformer, self.source, dtype, metadata)


def _refuse(prediction: str, clip_skip: int, max_tokens: int, weighted_captions: bool) -> None:
    """Raises UserError for settings that this family has not."""
    wrong = {
        f"model.prediction: found {prediction!r}, but Anima is a flow; leave 'auto'.": prediction not in _FLOW,
        f"model.clip_skip: {clip_skip}: Anima uses its text encoder's last states; leave it out.": clip_skip > 1,
        f"model.max_tokens: {max_tokens}: Anima reads {TOKENS} tokens of every caption; leave it out.": (
            max_tokens != _USUAL_TOKENS
        ),
        "model.weighted_captions: true: Anima's text encoder reads words without weights; leave it out.": (
            weighted_captions
        ),
    }
    if any(wrong.values()):
        raise UserError(line for line, found in wrong.items() if found)


def _refuse_widths(encoder: Network, network: Network, source: Source) -> None:
    """Raises UserError for a text encoder of another width than the conditioner reads."""
    found, wanted = encoder.config.hidden_size, network.text_conditioner.config.source_dim
    if found != wanted:
        raise UserError(
            f"model.text_encoder: {source.where('text_encoder')} has states of width {found}, the base reads {wanted}; "
            "they do not belong together."
        )


PLUGIN = Anima
