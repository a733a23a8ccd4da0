"""The interfaces that plugins implement. No logic.

A plugin is a file `plugins/<kind>/<name>.py` with a module-level `PLUGIN`, the class that implements its kind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from torch import Generator, Tensor, nn

from trainer.adapters.adapter_weights import AdapterWeights
from trainer.batch import Geometry, NoiseDraw, TextStates

if TYPE_CHECKING:
    from pydantic import BaseModel

Phase = Literal["pair", "shape", "perturb"]
PHASES: tuple[Phase, ...] = ("pair", "shape", "perturb")


class NoiseStage(Protocol):
    """One stage of the noise (kind "noise"). The config key `noise.<file name>` holds its `Settings`.

    Phases run in the order of `PHASES`, whatever the order in the file; at most one stage pairs.
    A pairing stage gets the plain Gaussian draw and the clean latents, a shaping stage changes `target` and `mixed`
    alike, a perturbing stage changes `mixed` only.

    Optional attributes and classmethods of a plugin:
    `metadata(settings) -> dict[str, object]`: the ss_ keys under which other tools look for the settings in a LoRA
        file; without it they stand there as JSON.
    `remark(settings, batch_size, accumulation) -> str | None`: says that settings have no effect.
    `pool`, of a pairing stage: "batch" (the micro-batch), "step" (all samples of an optimizer step) or a number of
        samples ahead; it is then called with that many samples at once.
    `sweep`: the values of the headline setting that the noise report compares.
    `information(settings, together) -> float`: the nats about an image that its noise holds (at most), where `together`
        samples are paired at once.
    """

    Settings: ClassVar[type[BaseModel]]  # every setting with bounds, default and help
    headline: ClassVar[str]  # the setting that `noise.<name> = value` stands for
    phase: ClassVar[Phase]

    def __init__(self, settings: Any) -> None: ...

    @classmethod
    def active(cls, settings: Any) -> bool:
        """Whether these settings change anything; an inactive stage is never built."""
        ...

    def __call__(self, draw: NoiseDraw, clean: Tensor, timesteps: Tensor, generator: Generator) -> NoiseDraw:
        """Applies the stage.

        draw: (B, C, h, w) float32, so far; clean: the latents, same shape, times the VAE scale; timesteps: (B,);
        generator: this stage's own stream for this micro-batch. May be called with any number of trailing dimensions.
        """
        ...


class Objective(Protocol):
    """What the network is asked to predict (kind "objectives")."""

    aliases: ClassVar[tuple[str, ...]]  # other names in the config, such as "v"
    diffusers_name: ClassVar[str]  # `prediction_type` of diffusers' schedulers
    modelspec_name: ClassVar[str]  # what Stability's model metadata calls it, e.g. "v"
    predicts_noise: ClassVar[bool]  # the target is the noise itself, not a mixture with the clean latents

    def __init__(self, alphas_cumprod: Tensor) -> None: ...

    def noisy(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t: the network's input, (B, C, h, w)."""
        ...

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The regression target, (B, C, h, w)."""
        ...

    def signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), each (B,): x_t = alpha * clean + sigma * noise."""
        ...


class Family(Protocol):
    """A model family (kind "models"): everything that depends on the architecture is asked of this object."""

    name: str  # the plugin's file name
    base_version: str  # kohya's ss_base_model_version, e.g. "sd_v1"
    architecture: str  # Stability's modelspec.architecture, e.g. "stable-diffusion-v1"
    implementation: str  # Stability's modelspec.implementation: whose names the modules of a LoRA file carry
    prediction: str  # name of the objective that the base was trained with
    alphas_cumprod: Tensor  # (timesteps,) float32, of the base's noise schedule
    latent_factor: int  # pixels per latent cell along one side
    parts: Mapping[str, nn.Module]  # what can train: "unet", "text_encoder", ...
    text_parts: tuple[str, ...]  # which of the parts encode text
    vae: nn.Module  # between pixels and latents; never trains
    notes: tuple[str, ...]  # what was assumed because the base does not tell, to be shown

    @classmethod
    def recognises(cls, base: str) -> str | None:
        """Why this family claims the base (a file, folder or hub id), or None. Reads no weights."""
        ...

    @classmethod
    def describes(cls, base: str) -> str | None:
        """What the base is, if the family knows, also when nothing trains it: for messages. Reads no weights."""
        ...

    @classmethod
    def predicts(cls, base: str) -> str | None:
        """The objective's name, of a base that the family recognises; None where only the weights could tell."""
        ...

    @classmethod
    def recognises_lora(cls, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str]) -> str | None:
        """kohya's base version ("sd_v1") if the tensors of a LoRA file are for this family, else None."""
        ...

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
    ) -> Family:
        """Loads the base on the CPU in float32, everything frozen and in eval mode; for the init "outline" it reads no
        weights, and all networks are on the meta device. Raises UserError."""
        ...

    def use_zero_terminal_snr(self, on: bool) -> None:
        """Rescales the noise schedule so that its last timestep is pure noise, or takes that back. Raises UserError."""
        ...

    @classmethod
    def tokenizer_of(cls, base: str, tokenizer: str = "") -> Any:
        """A fast tokenizer of transformers that counts as the family's text encoders do. Reads no weights. Raises
        UserError when there is none."""
        ...

    def to(self, device: Any, frozen_dtype: Any, only: Collection[str] | None = None) -> None:
        """Moves everything, or `only` these parts ("vae" names the VAE). Parameters that do not require gradients take
        `frozen_dtype`, the VAE stays float32. The device "meta" gives the memory back: weights are lost."""
        ...

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w) float32: the posterior's mean, times the VAE scale."""
        ...

    def encode_posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, standard deviation) of the latents' posterior, both (B, C, h, w) float32, times the VAE scale."""
        ...

    def text_recipe(self) -> str:
        """Whatever besides weights decides what `encode_text` gives: settings and tokenizer, for keys of caches."""
        ...

    def decode_latents(self, latents: Tensor) -> Tensor:
        """(B, C, h, w), times the VAE scale -> (B, 3, H, W) in [-1, 1]."""
        ...

    def encode_text(self, captions: Sequence[str]) -> TextStates: ...

    def predict(self, noisy: Tensor, timesteps: Tensor, text: TextStates, geometry: Geometry) -> Tensor:
        """The network's output, (B, C, h, w)."""
        ...

    def adapter_targets(self, part: str, *, conv: bool) -> list[str]:
        """Names of the modules of a part that a LoRA adapts, in kohya's selection; `conv` adds the ResNets (LoCon)."""
        ...

    def adapter_key(self, part: str, module: str) -> str:
        """kohya's name of a module in a LoRA file, e.g. lora_unet_down_blocks_0_attentions_0_proj_in."""
        ...

    def adapter_aliases(self, part: str, module: str) -> list[str]:
        """Other names of a module in LoRA files that are read: diffusers' and peft's, or other spellings of kohya's."""
        ...

    def read_lora(self, path: Path) -> Mapping[str, AdapterWeights] | None:
        """What another program's reader makes of a LoRA file, by names that the family knows; None if it reads none."""
        ...

    def unused_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters that the output does not depend on, such as text layers behind the one that is used."""
        ...

    def pipeline(self) -> Any:
        """A diffusers pipeline over the live modules, with a deterministic DDIM-like scheduler, for samples."""
        ...

    def save(self, folder: Path, dtype: Any) -> None:
        """Writes a complete diffusers folder."""
        ...

    def save_file(self, path: Path, dtype: Any, metadata: Mapping[str, str]) -> None:
        """Writes one file in the layout that other programs use for the family."""
        ...
