"""The frozen dataclasses that travel between the stages of a training step, and between adapters and their files.

Shapes: B samples, C latent channels, H x W pixels, h x w latent cells, T text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device. The host goes on at once only towards CUDA: on the way back it would read memory that is
    not filled yet, and Metal reads the source when it may be gone already."""
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


@dataclass(frozen=True)
class TextStates:
    """What a family makes of B captions: tensors (B, ...) by names that the family knows, such as "hidden" (B, T, E);
    the unit that the text cache stores. Empty where nothing depends on captions.

    Where captions differ in T, "X_mask" (B, T) beside "X" is 1 where a token is.
    """

    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def map(self, change: Callable[[Tensor], Tensor]) -> TextStates:
        """The same names with `change(tensor)`."""
        return TextStates({name: change(tensor) for name, tensor in self.tensors.items()})

    def to(self, device: torch.device | str) -> TextStates:
        return self.map(lambda tensor: sent(tensor, device))

    def row(self, index: int) -> TextStates:
        """The states of one caption, still with a leading dimension of 1."""
        return self.map(lambda tensor: tensor[index : index + 1])

    @staticmethod
    def cat(states: Sequence[TextStates]) -> TextStates:
        """Joins along B. What has a mask is filled up with zeros to the most tokens; all else must have one size."""
        names = states[0].tensors
        masked = {n for n in names if n.endswith("_mask") or f"{n}_mask" in names}
        return TextStates({n: _joined([one[n] for one in states], fill=n in masked) for n in names})


def _joined(rows: Sequence[Tensor], *, fill: bool) -> Tensor:
    """(B, T, ...) each -> all of them along B; `fill`: with zeros behind the shorter ones."""
    if not fill:
        return torch.cat(list(rows))
    longest = max(row.shape[1] for row in rows)
    missing = [row.new_zeros(len(row), longest - row.shape[1], *row.shape[2:]) for row in rows]
    return torch.cat([torch.cat(pair, dim=1) for pair in zip(rows, missing, strict=True)])


@dataclass(frozen=True)
class NoiseSchedule:
    """The times at which a base mixes images with noise: from 0, an image, to `steps`, noise."""

    steps: int  # how many whole timesteps there are; for a flow only the unit of its times
    alphas_cumprod: Tensor | None = None  # (steps,) float32, of discrete timesteps; None = a flow, of continuous times

    @classmethod
    def discrete(cls, alphas_cumprod: Tensor) -> NoiseSchedule:
        return cls(len(alphas_cumprod), alphas_cumprod)

    @property
    def continuous(self) -> bool:
        return self.alphas_cumprod is None

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the last of discrete timesteps is pure noise."""
        return self.alphas_cumprod is not None and float(self.alphas_cumprod[-1]) == 0

    def at(self, shares: Tensor) -> Tensor:
        """The times at shares of the way, in [0, 1) and float64: long where they are discrete, else float32."""
        times = shares * self.steps
        return times.float() if self.continuous else times.long().clamp(max=self.steps - 1)

    def spread(self, shares: Tensor) -> Tensor:
        """The times at shares of the way from the first to the last one, in [0, 1] and float64; typed like `at`."""
        return (shares * self.steps).float() if self.continuous else (shares * (self.steps - 1)).round().long()

    def evenly(self) -> Tensor:
        """(steps,): all discrete timesteps, or as many times of a flow, the last one pure noise."""
        return torch.arange(1.0, self.steps + 1) if self.continuous else torch.arange(self.steps)


@dataclass(frozen=True)
class Geometry:
    """Where each picture of the batch came from, in pixels, as (height, width) or (top, left); all (B, 2) long."""

    original: Tensor  # size of the image file
    crop: Tensor  # top-left corner of the crop
    target: Tensor  # size that is trained

    def to(self, device: torch.device | str) -> Geometry:
        return Geometry(*(sent(t, device) for t in (self.original, self.crop, self.target)))


@dataclass(frozen=True)
class Shown:
    """What a network that fills pictures in is shown of each. Exactly one of `latents` and `pixels` is given."""

    hidden: Tensor  # (B, 1, h, w) float32: 1 where the picture is hidden, else 0
    latents: Tensor | None = None  # (B, C, h, w) float32, times the VAE scale, of the picture without what is hidden
    pixels: Tensor | None = None  # (B, 3, H, W) float32 in [-1, 1] and 0 where it is hidden

    def map(self, change: Callable[[Tensor], Tensor]) -> Shown:
        return Shown(*(None if t is None else change(t) for t in (self.hidden, self.latents, self.pixels)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Contrast:
    """Of a batch that stands for a prompt instead of images: other prompts, whose answers tell what it shall become."""

    positive: str
    unconditional: str
    neutral: str
    guidance: float  # the target is neutral + guidance * (positive - unconditional)
    strength: float  # of the adapters while they learn it
    denoised: int  # steps that make its pictures out of noise
    states: Mapping[str, TextStates]  # of each prompt, of B equal rows

    def to(self, device: torch.device | str) -> Contrast:
        return replace(self, states={prompt: states.to(device) for prompt, states in self.states.items()})


@dataclass(frozen=True)
class Batch:
    """One micro-batch. Exactly one of `latents` and `pixels` is given; `text` is given when it was cached."""

    names: tuple[str, ...]  # the files, for messages
    captions: tuple[str, ...]  # as they are trained, after dropout and shuffling
    geometry: Geometry
    weights: Tensor  # (B,) float32, weight of each sample in the loss
    latents: Tensor | None = None  # (B, C, h, w) float32, times the VAE scale
    pixels: Tensor | None = None  # (B, 3, H, W) float32 in [-1, 1]
    text: TextStates | None = None
    mask: Tensor | None = None  # (B, 1, h, w) float32 in [0, 1]
    images: tuple[str, ...] = ()  # stable keys of image, size and view: the same on every machine and in every epoch
    of_base: Tensor | None = None  # (B,) bool: samples whose target is the base's own answer; None = no such sample
    shown: Shown | None = None  # to families that fill pictures in
    contrast: Contrast | None = None  # where there are no images: `latents` are zeros then

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> Batch:
        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else sent(tensor, device)

        return Batch(
            names=self.names,
            captions=self.captions,
            geometry=self.geometry.to(device),
            weights=sent(self.weights, device),
            latents=move(self.latents),
            pixels=move(self.pixels),
            text=None if self.text is None else self.text.to(device),
            mask=move(self.mask),
            images=self.images,
            of_base=move(self.of_base),
            shown=None if self.shown is None else self.shown.map(lambda tensor: sent(tensor, device)),
            contrast=None if self.contrast is None else self.contrast.to(device),
        )


@dataclass(frozen=True)
class NoiseDraw:
    """The noise of one batch. `target` is what the loss is computed from, `mixed` is what is added to the latents.

    Both are (B, C, h, w) float32 and the same tensor unless a perturbing stage told them apart.
    """

    target: Tensor
    mixed: Tensor


@dataclass(frozen=True)
class NoiseContext:
    """What a noise stage may know of the samples that it makes noise for."""

    clean: Tensor  # (B, C, h, w) float32, times the VAE scale; or any number of trailing dimensions
    timesteps: Tensor  # (B,)
    generator: Generator  # the stage's own stream for this call
    captions: tuple[str, ...] = ()  # (B), as they are trained, after dropout and shuffling
    images: tuple[str, ...] = ()  # (B), `Batch.images`
    seed: int = 0  # the stage's own in this run, for draws that are the same in every step
    losses: Callable[[Tensor], Tensor] | None = None
    """Given to stages whose `network` is true: the loss that each sample would have with a noise, (B, C, h, w) -> (B,),
    of the network as it is now, without gradients. One forward pass."""


DOWN, UP = "lora_down.weight", "lora_up.weight"  # kohya's names of the two factors that every program reads
MAGNITUDE = "dora_scale"  # LyCORIS' name of the lengths that DoRA learns


@dataclass(frozen=True)
class AdapterWeights:
    """One module of a LoRA file, or the live adapter of one layer: its tensors by the names that they have in a file.

    What they mean is known to their kind, which trainer.adapters.weights finds.
    """

    tensors: Mapping[str, Tensor]  # e.g. lora_down.weight (rank, in[, kh, kw]) and lora_up.weight (out, rank[, 1, 1])
    alpha: float  # the change is scaled by alpha / rank

    @property
    def down(self) -> Tensor:
        return self.tensors[DOWN]

    @property
    def up(self) -> Tensor:
        return self.tensors[UP]


@dataclass(frozen=True)
class AdapterDropout:
    """What an adapter loses while it trains, as shares from 0 to below 1."""

    inputs: float = 0.0  # of its inputs
    ranks: float = 0.0  # of its ranks, sample by sample
    modules: float = 0.0  # of its uses, as a whole


EMBEDDINGS = "embeddings"  # the part of a family that new words are


@dataclass(frozen=True)
class NewWord:
    """A word that a family's tokenizers learn, with vectors of its own (textual inversion, arXiv 2208.01618)."""

    name: str
    init: str = ""  # words of the vocabulary whose vectors it begins with; one counts for all
    vectors: int = 0  # 0 = as many as those words have tokens
    given: Mapping[str, Tensor] = field(default_factory=dict)  # vectors (n, E) instead, by text encoder
