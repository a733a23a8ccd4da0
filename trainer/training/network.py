"""The trained modules behind one forward, so that DDP and autocast wrap a single thing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.batch import Geometry, Shown, TextStates
from trainer.protocols import Family


class Inputs(NamedTuple):
    """What the network is given in a step."""

    noisy: Tensor  # (B, C, h, w)
    timesteps: Tensor  # (B,)
    text: TextStates | None  # wins over the captions
    captions: Sequence[str]
    geometry: Geometry
    shown: Shown | None = None  # to families that fill pictures in


Predict = Callable[..., Tensor]  # the call of a `Network` with `Inputs`, perhaps wrapped by accelerate


class Network(nn.Module):
    """Text encoding (where it is not cached) and prediction of a family."""

    def __init__(self, family: Family, names: Collection[str]) -> None:
        """names: the parts that a step needs; others belong to nobody who would move or wrap them."""
        super().__init__()
        self.parts = nn.ModuleDict({name: part for name, part in family.parts.items() if name in names})
        self._family = family

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: TextStates | None,
        captions: Sequence[str],
        geometry: Geometry,
        shown: Shown | None = None,
    ) -> Tensor:
        """The prediction, (B, C, h, w). `text` wins over `captions`, which are encoded here when it is None."""
        states = self._family.encode_text(captions) if text is None else text
        return self._family.predict(noisy, timesteps, states, geometry, shown)


@dataclass(frozen=True)
class Base:
    """What the network was before it learned: whatever asks for its answers asks here."""

    network: Predict
    as_it_was: Callable[[], AbstractContextManager[None]]  # inside, `network` answers as the base

    @torch.no_grad()
    def __call__(self, inputs: Inputs) -> Tensor:
        """The base's answer, (B, C, h, w)."""
        with self.as_it_was():
            return self.network(*inputs)
