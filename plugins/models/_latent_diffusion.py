"""What Stable Diffusion's families share: CLIP text encoders and a UNet over the latents of an image autoencoder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plugins.models import (
    _clip,
    _diffusers_folder,
    _fill,
    _loading,
    _lora_reader,
    _marks,
    _modules,
    _new_words,
    _noise_schedule,
    _single_file,
    _text,
    _tokenizer,
    _unet,
    _vae,
)
from plugins.models._from_a_base import FromABase
from plugins.models._identify import identify
from plugins.models._modules import Network
from plugins.models._new_words import NewWords
from plugins.models._probe import predicts_velocity
from plugins.models._single_file import Layout, SingleFile
from plugins.models._source import BaseSource
from plugins.models._text import TextSettings, Tokens
from trainer.batch import EMBEDDINGS, AdapterWeights, NewWord, NoiseSchedule, TextStates
from trainer.errors import UserError


@dataclass(frozen=True)
class StoredSchedule:
    config: Mapping[str, Any]  # diffusers' scheduler_config.json
    prediction: str  # the objective's name
    alphas_cumprod: Tensor  # (timesteps,)

    @classmethod
    def read(cls, config: Mapping[str, Any], prediction: str, where: str) -> StoredSchedule:
        """From a scheduler's config; `prediction` "auto" takes the config's. Raises UserError."""
        objective = _noise_schedule.objective(config, prediction, where)
        return cls(config, objective, _noise_schedule.alphas_cumprod(config, where))

    @classmethod
    def asked(
        cls, config: Mapping[str, Any], prediction: str, unet: Any, where: str, *, blank: bool
    ) -> tuple[StoredSchedule, tuple[str, ...]]:
        """The schedule, and what was assumed: where nothing tells what the base predicts, the UNet is asked.
        blank: it has no weights of the base, so that epsilon is assumed."""
        if prediction != "auto" or config.get("prediction_type", "epsilon") is not None:
            return cls.read(config, prediction, where), ()
        if blank:
            return cls.read(config, "epsilon", where), ()
        found = "velocity" if predicts_velocity(unet) else "epsilon"
        note = f"model.prediction: the file does not say what it predicts; its answer to pure noise says {found}"
        return cls.read(config, found, where), (note,)

    def with_zero_terminal_snr(self, on: bool) -> StoredSchedule:
        """The same schedule, rescaled so that its last timestep is pure noise, or as it was before that."""
        config = {**self.config, "rescale_betas_zero_snr": on}
        return StoredSchedule(config, self.prediction, _noise_schedule.alphas_cumprod(config, "scheduler"))


@dataclass(frozen=True)
class Components:
    """The finished pieces of a model. Text encoders are in the order in which their states are joined."""

    unet: Network
    vae: Network
    text_encoders: Mapping[str, Network]  # "text_encoder", "text_encoder_2"
    tokenizers: Mapping[str, Any]  # "tokenizer", "tokenizer_2"
    schedule: StoredSchedule
    layout: Layout
    sources: Mapping[str, BaseSource] = field(default_factory=dict)  # part -> where its weights are from
    notes: tuple[str, ...] = ()  # what was assumed because the files don't tell


class LatentDiffusion(FromABase):
    """`Family` but for the text: parts, placement, latents, naming, files."""

    name: ClassVar[str]
    layouts: ClassVar[Mapping[str, Layout]]  # of original checkpoints, by the name that `_identify` gives them
    either_way: ClassVar[tuple[str, ...]] = ("_proj_in", "_proj_out")  # around transformers
    embedding_keys: ClassVar[Mapping[str, tuple[str, ...]]]
    drawn: ClassVar[Mapping[str, Any]] = {}
    pipeline_class: ClassVar[Any]
    fill_class: ClassVar[Any]  # the pipeline of inpainting models
    pipeline_extras: ClassVar[Mapping[str, Any]]  # further arguments of the pipeline and keys of model_index.json

    def __init__(self, components: Components, text: TextSettings | None = None) -> None:
        self.components = components
        self.text_settings = text or TextSettings()
        self.unet = components.unet
        self.vae = components.vae
        self.vae_dtype = torch.float32
        self.prediction = components.schedule.prediction
        self.schedule = NoiseSchedule.discrete(components.schedule.alphas_cumprod)
        self.latent_factor = self.size_multiple = _vae.factor(components.vae)
        self.latent_channels = int(components.vae.config.latent_channels)
        self.kohya_scale = float(components.vae.config.scaling_factor)
        self.notes = components.notes
        self.text_parts = tuple(components.text_encoders)
        self.fills = _fill.fills(components.unet.config)
        self.parts: dict[str, nn.Module] = {"unet": components.unet, **components.text_encoders}
        self.file_parts = tuple(self.parts)
        self.new_words: NewWords | None = None

    def use_zero_terminal_snr(self, on: bool) -> None:
        """Rescales the noise schedule to zero terminal SNR (Lin et al. 2023, arXiv 2305.08891), or takes that back.

        Raises UserError for epsilon, which cannot be learned from pure noise.
        """
        if on and self.prediction == "epsilon":
            raise UserError(
                "model.zero_terminal_snr: a base that predicts epsilon learns nothing from pure noise; train it as "
                "model.prediction = 'v', or leave the schedule as it is."
            )
        stored = self.components.schedule.with_zero_terminal_snr(on)
        self.components = replace(self.components, schedule=stored)
        self.schedule = NoiseSchedule.discrete(stored.alphas_cumprod)

    def learn_words(self, words: Sequence[NewWord]) -> None:
        """Their vectors are a part from now on; the tokenizers that are saved stay as they were. Raises UserError."""
        c = self.components
        tokenizers = dict(zip(c.text_encoders, c.tokenizers.values(), strict=True))
        self.new_words = _new_words.learned(c.text_encoders, tokenizers, words)
        self.parts[EMBEDDINGS] = self.new_words.vectors

    def _tokens(self, part: str, captions: Sequence[str]) -> Tokens:
        """Captions as a text encoder takes them."""
        c, words = self.components, self.new_words
        own = dict(zip(c.text_encoders, c.tokenizers.values(), strict=True))
        reader = own[part] if words is None else words.tokenizers[part]
        positions = c.text_encoders[part].config.max_position_embeddings
        given = _text.tokens(reader, captions, positions, self.text_settings)
        return given if words is None else replace(given, ids=words.marked(part, given.ids))

    @classmethod
    def tokenizer_of(cls, base: str, tokenizer: str = "", words: Sequence[NewWord] = ()) -> Any:
        """The (first) tokenizer of a base, without its weights. Raises UserError when there is none."""
        source = _loading.open_base(base, cls.layouts)
        found = _tokenizer.find(tokenizer, "tokenizer", source.tokenizer("tokenizer"), zero_padding=False)
        return _new_words.reader(found, words) if words else found

    @classmethod
    def token_room(cls, tokenizer: Any, max_tokens: int) -> int:
        """Whole chunks of CLIP's positions, less begin and end."""
        return _text.room(tokenizer, max_tokens)

    @classmethod
    def recognises(cls, base: str) -> str | None:
        """Claims diffusers folders and original checkpoints of this family with a text-to-image UNet."""
        identity = identify(base)
        return identity.what if identity is not None and identity.family == cls.name else None

    @classmethod
    def describes(cls, base: str) -> str | None:
        """What the base is, also when no family trains it; None when it is nothing known."""
        identity = identify(base)
        return None if identity is None else identity.what

    @classmethod
    def predicts(cls, base: str) -> str | None:
        """The objective's name, from the scheduler's config or the marks and metadata of one file."""
        source = _loading.open_base(base, cls.layouts)
        config = source.config("scheduler")
        if config.get("prediction_type", "epsilon") is None:
            return None
        return _noise_schedule.objective(config, "auto", source.where("scheduler"))

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w) float32: the posterior's mean, times the VAE scale."""
        return _vae.encode(self.vae, pixels, self.vae_dtype)

    def encode_posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, standard deviation) of the latents' posterior, both (B, C, h, w) float32, times the VAE scale."""
        return _vae.posterior(self.vae, pixels, self.vae_dtype)

    def text_recipe(self) -> str:
        """The text settings, and a hash of each tokenizer with its padding."""
        words = [
            hashlib.sha256(f"{t.pad_token_id} {t.model_max_length} {t.backend_tokenizer.to_str()}".encode()).hexdigest()
            for t in self.components.tokenizers.values()
        ]
        return f"{self.text_settings} {' '.join(words)}"

    def decode_latents(self, latents: Tensor) -> Tensor:
        """(B, C, h, w), times the VAE scale -> (B, 3, H, W), about [-1, 1], float32."""
        return _vae.decode(self.vae, latents, self.vae_dtype)

    def adapter_targets(self, part: str, *, conv: bool) -> list[str]:
        """kohya's selection of modules of a part; `conv` adds the UNet's ResNets and samplers (LoCon)."""
        if part == "unet":
            return _unet.adapter_targets(self.unet, conv=conv)
        return _clip.adapter_targets(self.parts[part])

    def read_lora(self, path: Path) -> dict[str, AdapterWeights] | None:
        """What diffusers' loader makes of a LoRA file, by dotted names; None for kinds that it does not read."""
        networks = {"unet": self.unet, **self.components.text_encoders}
        return _lora_reader.read(path, networks, self._pipeline_of) if _lora_reader.reads(path) else None

    def unused_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the text layers behind the one whose states are used, and of a final norm that nothing passes."""
        for part, (skipped, final_norm) in self._text_use().items():
            encoder: Network = self.parts[part]
            inner: Network = getattr(encoder, "text_model", encoder)
            for layer in list(inner.encoder.layers)[len(inner.encoder.layers) - skipped :]:
                yield from layer.parameters()
            if not final_norm:
                yield from inner.final_layer_norm.parameters()

    def _text_use(self) -> dict[str, tuple[int, bool]]:
        """Per text encoder: how many of its last layers nothing depends on, and whether the final norm is used."""
        raise NotImplementedError

    def pipeline(self) -> Any:
        """A diffusers pipeline over the live modules. In mixed precision ask for `output_type="latent"` under autocast
        and decode with `decode_latents`, which runs the VAE in `vae_dtype`."""
        return self._pipeline_of({"unet": self.unet, **self.components.text_encoders})

    def _pipeline_of(self, networks: Mapping[str, Network]) -> Any:
        rest = {**self.components.tokenizers, **self.pipeline_extras}
        kind = self.fill_class if self.fills else self.pipeline_class
        return kind(vae=self.vae, scheduler=self._sampler(), **networks, **rest)

    def prompt_arguments(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
        """The text arguments of the pipeline's call, encoded as captions are: skipped layers, weights, long texts."""
        names = {"hidden": "prompt_embeds", "pooled": "pooled_prompt_embeds"}
        both = {"": self.encode_text(prompts), "negative_": self.encode_text(negatives)}
        return {f"{sign}{names[n]}": tensor for sign, states in both.items() for n, tensor in states.tensors.items()}

    def fill_arguments(self, pixels: Tensor, hidden: Tensor) -> dict[str, Any]:
        """The visible part is encoded here, as in training: the pipeline would draw from the posterior, and not in
        float32."""
        visible = self.encode_images((pixels * (hidden < 0.5)).to(self.vae.device))
        return {
            "image": pixels / 2 + 0.5,
            "mask_image": hidden,
            "masked_image_latents": visible,
            "strength": 1.0,
        }

    def encode_text(self, captions: Sequence[str]) -> TextStates:
        """Of each family."""
        raise NotImplementedError

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Writes a complete diffusers folder with weights as `dtype`; adapters that are not merged are left out."""
        c = self.components
        folder.mkdir(parents=True, exist_ok=True)
        for part, network in (("unet", c.unet), ("vae", c.vae)):
            config = _diffusers_folder.config_of(network)
            _diffusers_folder.write_part(
                folder / part, _diffusers_folder.DIFFUSERS_STEM, config, self._weights(part, dtype)
            )
        for part, encoder in c.text_encoders.items():
            config = _clip.config_of(encoder, dtype)
            weights = _clip.prefixed_names(self._weights(part, dtype))
            _diffusers_folder.write_part(folder / part, _diffusers_folder.TRANSFORMERS_STEM, config, weights)
        for part, tokenizer in c.tokenizers.items():
            _tokenizer.save(tokenizer, folder / part)
        self._sampler().save_pretrained(folder / "scheduler")
        _diffusers_folder.write_json(folder / "model_index.json", self._index())

    def save_file(self, path: Path, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
        """Writes one file in the original layout; adapters that are not merged are left out.

        What trained is stored as `dtype`. Where the base is such a file too, every other tensor of it is copied bit for
        bit, so that the set of names stays the same, but for the marks: they and the metadata follow objective and
        schedule.
        """
        source = self.components.sources.get("unet")
        original = source if isinstance(source, SingleFile) and source.path.is_file() else None
        layout = original.layout if original else self.components.layout
        live: dict[str, Tensor] = {}
        for part, network in {"unet": self.unet, "vae": self.vae, **self.components.text_encoders}.items():
            config = {} if part in layout.text else dict(network.config)
            live |= _single_file.to_original(
                _modules.base_weights(network), part, config, layout, complete=original is None
            )
        schedule = self.components.schedule.config
        names, before = (original.header.shapes, original.header.metadata) if original else ({}, {})
        tensors = _single_file.assemble(live, original, dtype) | _marks.marks(schedule, self.prediction)
        _single_file.write(path, tensors, _marks.told(names, before, schedule, self.prediction) | dict(metadata))

    def _weights(self, part: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """A part's weights as `dtype`. What did not train is read anew when it is held in a lower precision than the
        base's: storing it must not cost precision."""
        network = {"unet": self.unet, "vae": self.vae, **self.components.text_encoders}[part]
        live = _modules.base_weights(network)
        source = self.components.sources.get(part)
        rounded = any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in live.values())
        if source is not None and rounded:
            live = _modules.exact(live, self._read_anew(source, part))
        return {name: tensor.to(dtype) for name, tensor in live.items()}

    @staticmethod
    def _read_anew(source: BaseSource, part: str) -> Mapping[str, Tensor]:
        try:
            weights = source.weights(part)
        except UserError:  # the base was moved since: what is in memory is all there is
            return {}
        if part == "vae":
            return _vae.modern_names(weights)
        return weights if part == "unet" else _clip.flat_names(weights)

    def _sampler(self) -> Any:
        return _noise_schedule.sampler(self.components.schedule.config, self.prediction)

    def _index(self) -> dict[str, Any]:
        """model_index.json, in the words of a diffusers that transformers 4 goes with."""
        c = self.components
        return {
            "_class_name": (self.fill_class if self.fills else self.pipeline_class).__name__,
            "_diffusers_version": "0.20.0",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "scheduler": ["diffusers", _noise_schedule.class_name(self.prediction)],
            **{part: ["transformers", type(encoder).__name__] for part, encoder in c.text_encoders.items()},
            **{part: ["transformers", _tokenizer.class_name(t)] for part, t in c.tokenizers.items()},
            **{key: [None, None] if value is None else value for key, value in self.pipeline_extras.items()},
        }

    @property
    def _unet_dtype(self) -> torch.dtype:
        # The first convolution is never adapted, so it has the precision of the UNet's own weights.
        return self.unet.conv_in.weight.dtype
