"""Adapters that begin as a part of the layer's own weight: PiSSA (arXiv 2404.02948) and OLoRA (arXiv 2406.01775).

What they begin as is taken off the layer again, beside it rather than from its weight: a base in few bits stays as it
is, and a layer without its adapter is the base. A file holds the difference, of twice the rank, for the base as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from trainer.adapters import low_rank
from trainer.adapters.weights import scale
from trainer.batch import DOWN, UP, AdapterWeights

_DOWN, _UP = "lora_start_A", "lora_start_B"  # as adapters' names begin, so that nothing takes them for layers


class Less:
    """The way through one of peft's layers: with the adapter, less what it began as."""

    @staticmethod
    def forward(layer: Any, *, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        down, up = layer.lora_A[active_adapter], layer.lora_B[active_adapter]
        learned = up(down(layer.lora_dropout[active_adapter](x)))
        began = getattr(layer, _UP)(getattr(layer, _DOWN)(x))
        change: Tensor = (learned - began) * layer.scaling[active_adapter]
        return result + change.to(result.dtype)


def begin(layer: Any, name: str, live: AdapterWeights, start: str) -> None:
    """Gives a new plain adapter its first values, and the layer what takes them off again."""
    weight = dequantize_module_weight(layer.get_base_layer()).detach().float().flatten(1)
    if not weight.is_meta:
        up, down = _of(weight, len(live.down), scale(live), start)
        with torch.no_grad():  # a rank above the layer's own keeps the usual start behind it
            live.down[: len(down)] = down.reshape(-1, *live.down.shape[1:])
            live.up[:, : len(down)] = up.reshape(*up.shape, *live.up.shape[2:])
    setattr(layer, _DOWN, _frozen(layer.lora_A[name], live.down))
    setattr(layer, _UP, _frozen(layer.lora_B[name], live.up))
    layer.lora_variant[name] = Less()


def stored(layer: Any, live: AdapterWeights) -> AdapterWeights:
    """What a file holds: the change of the layer alone, of twice the rank. Factors that both hold most of the layer's
    weight would lose the change in half precision, so they are made anew from it."""
    if not hasattr(layer, _DOWN):
        return live
    down, up = (getattr(layer, name).weight for name in (_DOWN, _UP))
    both = {
        DOWN: torch.cat([live.down.detach(), down]).double(),
        UP: torch.cat([live.up.detach(), -up], dim=1).double(),
    }
    size = 2 * len(down)
    return low_rank.truncate(AdapterWeights(both, scale(live) * size), size, exact=True)


class Starts:
    """What all adapters of a run began as, for checkpoints: another machine's decomposition has other last bits."""

    def __init__(self, layers: Mapping[str, Any]) -> None:
        """layers: peft's, by any name."""
        self._buffers = {
            f"{name}/{which}": getattr(layer, which).weight
            for name, layer in layers.items()
            for which in (_DOWN, _UP)
            if hasattr(layer, which)
        }

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._buffers)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self._buffers.items():
            tensor.copy_(state[name])


def _of(weight: Tensor, rank: int, scaling: float, start: str) -> tuple[Tensor, Tensor]:
    """(up, down) of a matrix (out, in): PiSSA's section 3, with the scale taken out; OLoRA's section 3."""
    if start == "olora":
        basis, rest = torch.linalg.qr(weight)
        return basis[:, :rank], rest[:rank]
    left, values, right = low_rank.top_singular(weight, min(rank, *weight.shape))
    root = (values / scaling).sqrt()
    return left * root, root[:, None] * right


def _frozen(module: nn.Module, weight: Tensor) -> nn.Module:
    """A copy with that weight as a buffer: what is frozen would be rounded to the base's precision."""
    made = copy.deepcopy(module)
    del made.weight
    made.register_buffer("weight", weight.detach().clone(), persistent=False)
    return made
