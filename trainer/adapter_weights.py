"""What the tensors of one adapter mean: its kind, its rank and the change that it makes to a layer's weight.

The names of the tensors are those of LoRA files below a module's name: kohya's for LoRA, LyCORIS' for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

DOWN, UP = "lora_down.weight", "lora_up.weight"


@dataclass(frozen=True)
class AdapterWeights:
    """One module of a LoRA file, or the live adapter of one layer."""

    tensors: Mapping[str, Tensor]  # e.g. lora_down.weight (rank, in[, kh, kw]) and lora_up.weight (out, rank[, 1, 1])
    alpha: float  # the change is scaled by alpha / rank

    @property
    def down(self) -> Tensor:
        return self.tensors[DOWN]

    @property
    def up(self) -> Tensor:
        return self.tensors[UP]

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def delta(weights: AdapterWeights) -> Tensor:
    """The change of the layer's weight, float32, of the weight's shape: scale * up @ down (Hu et al. 2021,
    arXiv 2106.09685, section 4.1; for a convolution the product runs over the rank, each kernel cell by itself)."""
    down, up = weights.down.float(), weights.up.float()
    flat = up.flatten(1) @ down.flatten(1)  # (out, in * kh * kw)
    return weights.scale * flat.reshape(up.shape[0], *down.shape[1:])


def is_finite(weights: AdapterWeights) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in weights.tensors.values())
