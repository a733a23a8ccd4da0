"""Pixel space: diffusers' UNet2DModel, unconditional or with classes, without text encoder and VAE."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from plugins.models import _diffusers_folder, _loading, _modules, _noise_schedule, _pixel_base, _pixel_network, _unet
from plugins.models._classes import KEY, Classes
from plugins.models._consistency_sampler import ConsistencySampler
from plugins.models._diffusers_folder import DIFFUSERS_STEM
from plugins.models._dopri5 import Dopri5
from plugins.models._flow_sampler import TimeFlowSampler
from plugins.models._modules import Network
from plugins.models._pixel_base import PixelBase
from plugins.models._pixel_network import TIMESTEPS, WHERE
from plugins.models._pixel_pipeline import PixelPipeline
from trainer.batch import AdapterWeights, Geometry, NewWord, NoiseSchedule, Shown, TextStates
from trainer.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # grey of red, green and blue, as Pillow mixes them (ITU-R 601)
_ATTENTION = ("Attention",)  # what a plain LoRA adapts


class Pixel:
    """`latents` are the pictures themselves, in [-1, 1]; captions are names of classes."""

    name = "pixel"
    base_version = "pixel"
    architecture = "diffusers-unet2d"
    implementation = "diffusers"
    latent_factor = 1
    kohya_scale: float | None = None
    fills = False
    vae_dtype: Any = torch.float32
    either_way: ClassVar[tuple[str, ...]] = ()
    embedding_keys: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    text_parts: tuple[str, ...] = ()
    file_parts: tuple[str, ...] = ()

    def __init__(
        self, unet: Network, schedule: Mapping[str, Any], prediction: str, classes: Classes, where: str
    ) -> None:
        """schedule: a config of diffusers' schedulers, and of which kind where it tells."""
        self.unet = unet
        self.classes = classes
        self.reads_captions = bool(classes.names)
        self.some_caption = classes.names[0] if classes.names else ""
        self.prediction = prediction
        self.parts: dict[str, nn.Module] = {"unet": unet}
        self.vae: nn.Module = nn.Identity()
        self.latent_channels = int(unet.config.in_channels)
        self.size_multiple = _pixel_network.size_multiple(unet.config)
        self.notes: tuple[str, ...] = () if classes.names else ("the network has no classes: captions have no effect",)
        self._scheduler, self._where = dict(schedule), where
        self.schedule = self._noise_schedule()

    def _noise_schedule(self) -> NoiseSchedule:
        if self.prediction == "flow":
            return NoiseSchedule(int(self._scheduler.get("num_train_timesteps", TIMESTEPS)))
        return NoiseSchedule.discrete(_noise_schedule.alphas_cumprod(self._scheduler, self._where))

    @classmethod
    def recognises(cls, base: str) -> str | None:
        found = _pixel_base.find(base)
        return found.what if found is not None and not found.refused else None

    @classmethod
    def describes(cls, base: str) -> str | None:
        found = _pixel_base.find(base)
        return None if found is None else found.what

    @classmethod
    def predicts(cls, base: str) -> str | None:
        found = _opened(base)
        return _noise_schedule.objective(found.scheduler(), "auto", found.where("scheduler"))

    @classmethod
    def recognises_lora(cls, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str]) -> str | None:
        """By its metadata alone: names and shapes are those of other UNets too."""
        return cls.base_version if metadata.get("ss_base_model_version") == cls.base_version else None

    @classmethod
    def lora_names(cls, shapes: Mapping[str, Sequence[Sequence[int]]], *, sure: bool) -> dict[str, str]:
        return {name: name for name in shapes if sure and name.startswith(_unet.adapter_key(""))}

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
    ) -> Pixel:
        """Loads a base on the CPU, frozen and in eval mode. Raises UserError, also for settings of text and VAE."""
        needless = {
            "tokenizer": tokenizer, "vae": vae, "text_encoder": text_encoder, "clip_skip": clip_skip,
            "weighted_captions": weighted_captions,
        }  # fmt: skip
        if problems := [f"model.{key}: a model in pixel space has no such part." for key, v in needless.items() if v]:
            raise UserError(problems)
        found = _opened(base)
        if found.refused:
            raise UserError(f"{found.where('unet')}: {found.refused}")
        fresh = bool(_loading.new_parts(init, ("unet",)))
        state = _modules.NO_WEIGHTS if init == _loading.OUTLINE else None if fresh else found.weights()
        config, schedule = found.config, found.scheduler()
        objective = _noise_schedule.objective(schedule, prediction, found.where("scheduler"))
        count = int(config.get("num_class_embeds") or 0)
        classes = Classes.stored(found.index(), count) if count else Classes()
        return cls(_built(config, state, found.where("unet"), dtype), schedule, objective, classes, found.path.name)

    @classmethod
    def create(
        cls, network: Mapping[str, Any], classes: Sequence[str], *, prediction: str = "auto", outline: bool = False
    ) -> Pixel:
        """A new network, with weights from torch's random state. Raises UserError."""
        asked = _pixel_network.asked(network, classes)
        objective = _noise_schedule.objective({}, prediction, WHERE)
        schedule = {
            "num_train_timesteps": TIMESTEPS,
            "beta_schedule": asked.beta_schedule,
            "beta_start": 0.0001,
            "beta_end": 0.02,
            "timestep_spacing": "trailing",  # draws from pure noise in few steps too (Lin et al. 2023)
        }
        state = _modules.NO_WEIGHTS if outline else None
        return cls(
            _built(asked.config, state, WHERE, torch.float32), schedule, objective, Classes(asked.classes), WHERE
        )

    def use_zero_terminal_snr(self, on: bool) -> None:
        """Rescales the noise schedule to zero terminal SNR (Lin et al. 2023, arXiv 2305.08891), or takes that back."""
        if on and self.prediction != "velocity":
            raise UserError(
                f"model.zero_terminal_snr: this model predicts {self.prediction}; only v-prediction learns from pure "
                "noise by a schedule of steps. Train with model.prediction = 'v', or leave the schedule as it is."
            )
        self._scheduler["rescale_betas_zero_snr"] = on
        self.schedule = self._noise_schedule()

    @classmethod
    def tokenizer_of(cls, base: str, tokenizer: str = "", words: Sequence[NewWord] = ()) -> Any:
        raise UserError("a model in pixel space reads names of classes, not tokens.")

    def learn_words(self, words: Sequence[NewWord]) -> None:
        raise NotImplementedError("pixel learns no words")

    @classmethod
    def token_room(cls, tokenizer: Any, max_tokens: int) -> int:
        """There is no tokenizer."""
        return 0

    def to(self, device: torch.device | str, frozen_dtype: torch.dtype, only: Collection[str] | None = None) -> None:
        if only is None or "unet" in only:
            _modules.move(self.unet, device, frozen_dtype)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H, W) float32: the same, or its grey."""
        if self.latent_channels == 3:
            return pixels.float()
        return torch.einsum("bchw,c->bhw", pixels.float(), pixels.new_tensor(LUMA, dtype=torch.float32))[:, None]

    def encode_posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        clean = self.encode_images(pixels)
        return clean, torch.zeros_like(clean)

    def text_recipe(self) -> str:
        return f"classes {self.classes.names}"

    def decode_latents(self, latents: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 3, H, W), about [-1, 1], float32."""
        return latents.float().expand(-1, 3, -1, -1)

    def encode_text(self, captions: Sequence[str]) -> TextStates:
        """The number of each class, (B, 1) long; nothing for a network without classes."""
        return TextStates({"class": self.classes.numbers(captions)[:, None]} if self.classes.names else {})

    def predict(
        self, noisy: Tensor, timesteps: Tensor, text: TextStates, geometry: Geometry, shown: Shown | None = None
    ) -> Tensor:
        """The UNet's output, (B, C, H, W)."""
        return self._ask(noisy, timesteps, text["class"][:, 0] if self.classes.names else None)

    def _ask(self, noisy: Tensor, timesteps: Tensor, classes: Tensor | None) -> Tensor:
        labels = None if classes is None else classes.to(noisy.device)
        return self.unet(noisy.to(self.unet.conv_in.weight.dtype), timesteps, class_labels=labels).sample

    def adapter_targets(self, part: str, *, conv: bool) -> list[str]:
        """Layers of the attention; `conv` adds the ResNets and samplers."""
        return _unet.layers_within(self.unet, _ATTENTION + _unet.CONVOLUTION if conv else _ATTENTION)

    def adapter_key(self, part: str, module: str) -> str:
        return _unet.adapter_key(module)

    def adapter_aliases(self, part: str, module: str) -> list[str]:
        return [module, f"unet.{module}"]

    def read_lora(self, path: Path) -> dict[str, AdapterWeights] | None:
        return None

    def unused_parameters(self) -> Iterator[nn.Parameter]:
        return iter(())

    @property
    def drawn(self) -> dict[str, Any]:
        """In the size of the network, without guidance."""
        side = self.unet.config.sample_size or 8 * self.size_multiple
        height, width = (side, side) if isinstance(side, int) else side
        return {"width": width, "height": height, "guidance": 1.0}

    @property
    def samplers(self) -> dict[str, Callable[[], Any]]:
        if self.prediction == "epsilon":  # its estimate of the picture is divided by what is left of it in the noise
            return {}
        flow = {"dopri5": Dopri5, "euler": self._sampler} if self.prediction == "flow" else {}
        return {**flow, "consistency": partial(ConsistencySampler, self.schedule)}

    def cannot_draw(self, prompt: str, negative: str, guidance: float) -> str:
        """Prompts are names of classes."""
        if not self.classes.names:
            return ""
        if problem := self.classes.problem(prompt):
            return problem
        return "" if guidance in (0, 1) else self.classes.problem(negative)

    def pipeline(self) -> PixelPipeline:
        device = self.unet.conv_in.weight.device
        return PixelPipeline(self._ask, self.latent_channels, self._sampler(), device, float(self.schedule.steps))

    def fill_arguments(self, pixels: Tensor, hidden: Tensor) -> dict[str, Any]:
        raise NotImplementedError("it fills no pictures in")

    def prompt_arguments(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
        if not self.classes.names:
            return {}
        found = {"class_labels": self.classes.numbers(prompts)}
        guided = not any(self.classes.problem(negative) for negative in negatives)
        return {**found, "negative_class_labels": self.classes.numbers(negatives)} if guided else found

    def _sampler(self) -> Any:
        if self.prediction == "flow":
            return TimeFlowSampler(num_train_timesteps=self.schedule.steps)
        # Pictures in [-1, 1], and so are their estimates (Ho et al. 2020).
        return _noise_schedule.sampler(self._scheduler | {"set_alpha_to_one": True}, self.prediction, clip_sample=True)

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Writes a folder that diffusers' UNet2DModel and DDPMPipeline read."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.to(dtype) for name, tensor in _modules.base_weights(self.unet).items()}
        config = _diffusers_folder.config_of(self.unet)
        _diffusers_folder.write_part(folder / "unet", DIFFUSERS_STEM, config, weights)
        flow = self.prediction == "flow"
        kind = _noise_schedule.class_name(self.prediction) if flow else "DDPMScheduler"
        _noise_schedule.of_class(kind, self._sampler()).save_pretrained(folder / "scheduler")
        index = {
            "_class_name": "DDPMPipeline",
            "_diffusers_version": "0.20.0",
            "unet": ["diffusers", "UNet2DModel"],
            "scheduler": ["diffusers", kind],
            **({KEY: self.classes.as_index()} if self.classes.names else {}),
        }
        _diffusers_folder.write_json(folder / "model_index.json", index)

    def save_file(self, path: Path, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
        raise UserError("save.full: no program reads a model in pixel space as one file; write 'folder'.")


def _opened(base: str) -> PixelBase:
    found = _pixel_base.find(base)
    if found is None:
        raise UserError(f"{base}: no diffusers folder with a UNet2DModel")
    return found


def _built(config: Mapping[str, Any], state: Mapping[str, Tensor] | None, where: str, dtype: Any) -> Network:
    """With its weights, or with new ones from torch's random state when `state` is None."""
    unet = _modules.build(lambda: UNet2DModel.from_config(dict(config)), where, empty=state is not None)
    return _modules.freeze(unet if state is None else _modules.fill(unet, state, where, dtype))


PLUGIN = Pixel
