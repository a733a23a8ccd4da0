"""The frozen dataclasses that travel between the stages of a training step.

Shapes: B samples, C latent channels, H x W pixels, h x w latent cells, T text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device. The host goes on at once only towards CUDA: on the way back it would read memory that is
    not filled yet, and Metal reads the source when it may be gone already."""
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


@dataclass(frozen=True)
class TextStates:
    """What a family's text encoder(s) make of B captions; the unit that the text cache stores."""

    hidden: Tensor  # (B, T, E)
    pooled: Tensor | None = None  # (B, P), for families that use it

    def to(self, device: torch.device | str) -> TextStates:
        pooled = None if self.pooled is None else sent(self.pooled, device)
        return TextStates(sent(self.hidden, device), pooled)

    def row(self, index: int) -> TextStates:
        """The states of one caption, still with a leading dimension of 1."""
        rows = slice(index, index + 1)
        return TextStates(self.hidden[rows], None if self.pooled is None else self.pooled[rows])

    @staticmethod
    def cat(states: list[TextStates]) -> TextStates:
        """Joins along B. All must have the same number of tokens."""
        pooled = [s.pooled for s in states if s.pooled is not None]
        return TextStates(torch.cat([s.hidden for s in states]), torch.cat(pooled) if pooled else None)


@dataclass(frozen=True)
class Geometry:
    """Where each picture of the batch came from, in pixels, as (height, width) or (top, left); all (B, 2) long."""

    original: Tensor  # size of the image file
    crop: Tensor  # top-left corner of the crop
    target: Tensor  # size that is trained

    def to(self, device: torch.device | str) -> Geometry:
        return Geometry(*(sent(t, device) for t in (self.original, self.crop, self.target)))


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
        )


@dataclass(frozen=True)
class NoiseDraw:
    """The noise of one batch. `target` is what the loss is computed from, `mixed` is what is added to the latents.

    Both are (B, C, h, w) float32 and the same tensor unless a perturbing stage told them apart.
    """

    target: Tensor
    mixed: Tensor
