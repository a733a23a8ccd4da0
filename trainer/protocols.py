"""The interfaces that plugins implement. No logic.

A plugin is a file `plugins/<kind>/<name>.py` with a module-level `PLUGIN`, the class that implements its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Tensor, nn

    from trainer.batch import (
        AdapterDropout,
        AdapterWeights,
        Geometry,
        NewWord,
        NoiseContext,
        NoiseDraw,
        NoiseSchedule,
        Shown,
        TextStates,
    )

Phase = Literal["pair", "shape", "perturb"]
PHASES: tuple[Phase, ...] = ("pair", "shape", "perturb")


@dataclass(frozen=True)
class Outline:
    """What a base's header tells, before anything that takes seconds is loaded."""

    family: str  # the plugin that trains it, or "" for what none trains
    what: str  # "a Stable Diffusion 1.x checkpoint (one file)"
    size_multiple: int = 0  # pixels that the sides of its pictures must divide by; 0 = unknown
    parts: Sequence[str] = ()  # what may train: "unet", "text_encoder", ...
    text_parts: Sequence[str] = ()  # which of the parts encode text
    names: Mapping[str, Collection[str]] = field(default_factory=dict)  # of the weights of those parts that tell theirs
    reads_captions: bool = True


class BaseReader(Protocol):
    """Reads the headers of bases, without torch: what is wrong with one is told at once. A kind of its own, since a
    family's file brings its libraries; a family without a reader is asked when they are loaded."""

    families: ClassVar[Sequence[str]]  # whose bases it knows

    @classmethod
    def outline(cls, base: str) -> Outline | None:
        """Of a file or folder; None for what it does not know. Raises UserError for a damaged one."""
        ...

    @classmethod
    def of_new(cls, network: Mapping[str, Any], classes: Sequence[str]) -> Outline:
        """Of what `Family.create` would make. Raises UserError with everything that is wrong with it."""
        ...


class NoiseMoments(Protocol):
    """Of the noise n that a stage gives a latent x; u = x / |x|, D numbers."""

    @property
    def mean(self) -> float:
        """E[n.u]; 0 for plain noise."""
        ...

    @property
    def variance(self) -> float:
        """Var[n.u]; 1 for plain noise."""
        ...

    @property
    def rest(self) -> float:
        """E[|n - (n.u) u|^2] / (D - 1); 1 for plain noise."""
        ...


class NoiseStage(Protocol):
    """One stage of the noise (kind "noise"). The config key `noise.<file name>` holds its `Settings`.

    Phases run in the order of `PHASES`, whatever the order in the file; at most one stage pairs.
    A pairing stage gets the plain Gaussian draw and the clean latents, a shaping stage changes `target` and `mixed`
    alike, a perturbing stage changes `mixed` only. plugins/noise/_stage.py has a base with defaults.
    """

    Settings: ClassVar[type[BaseModel]]  # every setting with bounds, default and help
    headline: ClassVar[str]  # the setting that `noise.<name> = value` stands for
    phase: ClassVar[Phase]
    example: ClassVar[dict[str, object]]  # settings with which it acts
    sweep: ClassVar[tuple[int, ...]]  # values of the headline setting that the noise report compares
    network: ClassVar[bool]  # asks the network: it is given `NoiseContext.losses`
    repeats: ClassVar[bool]  # an image's noise comes again
    remembers: ClassVar[bool]  # a call changes what later ones do: its state is in checkpoints; in one process only
    pool: int | Literal["batch", "step"]
    """Of a pairing stage: how many samples it pairs at once, and is called with. 0 = each for itself, "batch" = the
    micro-batch, "step" = all samples of an optimizer step, a number = so many samples ahead."""

    def __init__(self, settings: Any) -> None: ...

    @classmethod
    def active(cls, settings: Any) -> bool:
        """Whether these settings change anything; an inactive stage is never built."""
        ...

    @classmethod
    def metadata(cls, settings: Any) -> dict[str, object]:
        """The ss_ keys under which other tools look for the settings in a LoRA file; else they stand there as JSON."""
        ...

    @classmethod
    def remark(cls, settings: Any, batch_size: int, accumulation: int) -> str | None:
        """Says that settings have no effect."""
        ...

    @classmethod
    def remark_on(cls, settings: Any, captions: Sequence[str]) -> str | None:
        """Says that settings have no effect on images with these captions."""
        ...

    @classmethod
    def information(cls, settings: Any, together: int) -> float | None:
        """Nats about an image that its noise holds (at most), where `together` samples are paired at once; None where
        that is not known."""
        ...

    @classmethod
    def moments(cls, settings: Any, dim: int, rms: float) -> NoiseMoments | None:
        """Of the noise for a latent of `dim` numbers with root mean square `rms`; None where they are not known."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """What it remembers, for a checkpoint: tensors, numbers, texts and lists of them."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts the stage where it was; `state` is not changed."""
        ...

    def __call__(self, draw: NoiseDraw, context: NoiseContext) -> NoiseDraw:
        """Applies the stage to the noise so far, (B, C, h, w) float32 as `context.clean`; any number of trailing
        dimensions will do."""
        ...


class Objective(Protocol):
    """What the network is asked to predict (kind "objectives")."""

    aliases: ClassVar[tuple[str, ...]]  # other names in the config, such as "v"
    diffusers_name: ClassVar[str]  # `prediction_type` of diffusers' schedulers
    modelspec_name: ClassVar[str]  # what Stability's model metadata calls it, e.g. "v"
    predicts_noise: ClassVar[bool]  # the target is the noise itself, not a mixture with the clean latents

    schedule: NoiseSchedule

    def __init__(self, schedule: NoiseSchedule) -> None:
        """Raises UserError for a schedule that the objective cannot follow."""
        ...

    def noisy(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t: the network's input, (B, C, h, w)."""
        ...

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The regression target, (B, C, h, w)."""
        ...

    def signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), each (B,): x_t = alpha * clean + sigma * noise."""
        ...

    def separated(self, noisy: Tensor, target: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(clean, noise), each (B, C, h, w), that an input and its target, or the network's answer, stand for."""
        ...


class AdapterKind(Protocol):
    """A kind of adapter (kind "adapters"): what its tensors mean, and how a layer gets one that trains.

    `lora.method = "<file name>"` trains one. plugins/adapters/_kind.py has a base with defaults.
    """

    title: ClassVar[str]  # for messages
    summary: ClassVar[str]  # what lora.method's help says of it
    leaves: ClassVar[tuple[str, ...]]  # names of its tensors in a file, below the module's name
    extras: ClassVar[tuple[str, ...]]  # names of tensors that may stand beside them
    trains: ClassVar[bool]  # lora.method offers it; others are only read
    trainable: ClassVar[tuple[str, ...]]  # the tensors that an adapter which trains can have
    plain: ClassVar[bool]  # its change is lora_up @ lora_down and nothing else, which every program reads
    zero: ClassVar[tuple[str, ...]]  # the factors that start at zero, so that a new adapter changes nothing
    given: ClassVar[tuple[str, ...]]  # tensors whose first values the base gives
    attributes: ClassVar[Mapping[str, str]]  # tensor's name -> peft's name of it, where that is another
    skips_whole: ClassVar[bool]  # what dropout leaves out as a whole gets no gradient at all
    module: ClassVar[str]  # ss_network_module: whose reader understands the file
    arguments: ClassVar[Mapping[str, str]]  # of ss_network_args, by which other tools know the kind
    Settings: ClassVar[type[BaseModel] | None]  # of the kind alone: lora.args, with bounds, defaults and help

    @classmethod
    def claims(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these are the tensors of a whole adapter of this kind, and no others."""
        ...

    @classmethod
    def rank(cls, weights: AdapterWeights) -> int:
        """The inner dimension; 0 where there is none."""
        ...

    @classmethod
    def scale(cls, weights: AdapterWeights) -> float:
        """What the product of the factors is multiplied by: alpha / rank, or 1 where there is no rank."""
        ...

    @classmethod
    def needs_base(cls, weights: AdapterWeights) -> bool:
        """Whether the change of a layer depends on the layer's own weight."""
        ...

    @classmethod
    def change(cls, weights: AdapterWeights, base: Tensor | None = None) -> Tensor:
        """The change of the layer's weight, float32; flat where only `base`, the weight, tells its shape.

        Raises RuntimeError or IndexError for factors that do not fit together, or the base; `base` must be given
        where `needs_base` says so.
        """
        ...

    @classmethod
    def changes_weight(cls, weights: AdapterWeights) -> bool:
        """Whether it changes the layer's weight; some change its bias alone."""
        ...

    @classmethod
    def bias_change(cls, weights: AdapterWeights) -> Tensor | None:
        """The change of the layer's bias, float32; None where it stays."""
        ...

    @classmethod
    def check(cls, tensors: Mapping[str, Tensor]) -> None:
        """Raises RuntimeError or IndexError for factors that do not fit together, by their shapes."""
        ...

    @classmethod
    def problems(cls, dropout: AdapterDropout) -> Iterable[str]:
        """Lines about settings that this kind has not."""
        ...

    @classmethod
    def config(cls, common: Mapping[str, Any], dropout: AdapterDropout, settings: Any) -> Any:
        """The configuration by which peft puts it into layers; `common` are the arguments of any kind, `settings` the
        kind's own."""
        ...

    @classmethod
    def finish(cls, layer: Any, dropout: AdapterDropout) -> None:
        """Completes one of peft's layers with what peft does not do."""
        ...


class Family(Protocol):
    """A model family (kind "models"): everything that depends on the architecture is asked of this object."""

    name: str  # the plugin's file name
    base_version: str  # kohya's ss_base_model_version, e.g. "sd_v1"
    architecture: str  # Stability's modelspec.architecture, e.g. "stable-diffusion-v1"
    implementation: str  # Stability's modelspec.implementation: whose names the modules of a LoRA file carry
    prediction: str  # name of the objective that the base was trained with
    schedule: NoiseSchedule  # of the base
    latent_factor: int  # pixels per latent cell along one side
    latent_channels: int
    size_multiple: int  # pixels that the sides of its pictures must divide by; a multiple of latent_factor
    parts: Mapping[str, nn.Module]  # what can train: "unet", "text_encoder", ...
    text_parts: tuple[str, ...]  # which of the parts encode text
    reads_captions: bool  # something depends on captions
    some_caption: str  # one that it can encode
    vae: nn.Module  # between pixels and latents; never trains
    vae_dtype: Any  # torch dtype in which it computes, float32 until it is set; its weights stay as they are
    kohya_scale: float | None  # of kohya's latents (data.kohya_latents); None = they are in no form that is read
    fills: bool  # an inpainting model: `predict` is given what it is shown of each picture
    notes: tuple[str, ...]  # what was assumed because the base does not tell, to be shown
    drawn: Mapping[str, Any]  # width, height, guidance of samples where the config says nothing, if not the schema's
    file_parts: tuple[str, ...]  # those that `save_file` writes; none = there is no form of one file
    samplers: Mapping[str, Callable[[], Any]]  # those that it has beside, or for, the usual ones
    embedding_keys: Mapping[str, tuple[str, ...]]  # text encoder -> names of its vectors in files of embeddings, the
    # first of which is written; none = it learns no new words
    either_way: ClassVar[tuple[str, ...]]  # ends of kohya's names of layers taken for linear or for 1x1 convolutions

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
    def lora_names(cls, shapes: Mapping[str, Sequence[Sequence[int]]], *, sure: bool) -> Mapping[str, str]:
        """kohya's name of each module of a LoRA, by the name that it has there, as far as names alone can tell.

        shapes: of each module's tensors; sure: whether the file is known to be for this family. Raises UserError where
        names mean another layer in networks of another depth, and the same layer may be there under two of them.
        """
        ...

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
        dtype: Any = ...,
    ) -> Family:
        """Loads the base on the CPU, everything frozen and in eval mode, in a torch dtype (else float32; None = the
        files'), the VAE's weights in float32; for the init "outline" it reads no weights, and all networks are on the
        meta device. Raises UserError."""
        ...

    @classmethod
    def create(
        cls, network: Mapping[str, Any], classes: Sequence[str], *, prediction: str = "auto", outline: bool = False
    ) -> Family:
        """A new network without any base, with weights from torch's random state, as `load` gives one.

        network: what model.network says of it; classes: names of the classes that it tells apart. Raises UserError,
        also where the family makes none.
        """
        ...

    def use_zero_terminal_snr(self, on: bool) -> None:
        """Rescales the noise schedule so that its last timestep is pure noise, or takes that back. Raises UserError."""
        ...

    @classmethod
    def tokenizer_of(cls, base: str, tokenizer: str = "", words: Sequence[NewWord] = ()) -> Any:
        """A fast tokenizer of transformers that counts as the family's text encoders do, once they have learned the
        words. Reads no weights. Raises UserError when there is none."""
        ...

    @classmethod
    def token_room(cls, tokenizer: Any, max_tokens: int) -> int:
        """How many tokens of a caption reach the model, without begin and end marks. tokenizer: `tokenizer_of`'s;
        max_tokens: model.max_tokens."""
        ...

    def learn_words(self, words: Sequence[NewWord]) -> None:
        """Teaches text encoders and tokenizers new words; their vectors are the part "embeddings" from then on, with
        parameters "text_encoder.<word>". Called once, and where the family has `embedding_keys`. Raises UserError."""
        ...

    def to(self, device: Any, frozen_dtype: Any, only: Collection[str] | None = None) -> None:
        """Moves everything, or `only` these parts ("vae" names the VAE). Parameters that do not require gradients take
        `frozen_dtype`, the VAE's weights stay float32. The device "meta" gives the memory back: weights are lost."""
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

    def predict(
        self, noisy: Tensor, timesteps: Tensor, text: TextStates, geometry: Geometry, shown: Shown | None = None
    ) -> Tensor:
        """The network's output, (B, C, h, w). shown: given where the family `fills`."""
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
        """A diffusers pipeline over the live modules, with a deterministic DDIM-like scheduler, for samples; or what
        is called like one. Its result may tell its `evaluations` of the network."""
        ...

    def cannot_draw(self, prompt: str, negative: str, guidance: float) -> str:
        """Why there is no picture of a prompt; "" where there is one."""
        ...

    def prompt_arguments(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Any]:
        """The text arguments of the pipeline's call for B prompts and B negative ones, by the way of `encode_text`."""
        ...

    def fill_arguments(self, pixels: Tensor, hidden: Tensor) -> dict[str, Any]:
        """Of a family that `fills`: the arguments of the pipeline's call for pictures (B, 3, H, W) in [-1, 1] of which
        it is to fill in what is 1 in `hidden`, (B, 1, H, W)."""
        ...

    def save(self, folder: Path, dtype: Any) -> None:
        """Writes a complete diffusers folder."""
        ...

    def save_file(self, path: Path, dtype: Any, metadata: Mapping[str, str]) -> None:
        """Writes one file in the layout that other programs use for the family."""
        ...
