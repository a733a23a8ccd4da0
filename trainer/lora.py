"""Puts LoRA adapters (peft's) into the parts of a family, and reads, scales, loads and merges them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from trainer.adapter_weights import DOWN, UP, AdapterWeights, delta
from trainer.errors import UserError
from trainer.protocols import Family
from trainer.randomness import generator

_NAME = "default"  # peft's name of the one adapter that each layer carries


@dataclass(frozen=True)
class Adapter:
    """The adapter of one layer; `weights` holds the live parameters."""

    part: str  # "unet", "text_encoder", ...
    module: str  # dotted name of the layer inside its part
    key: str  # kohya's name in a LoRA file
    layer: Any  # peft's layer around the original one
    weights: AdapterWeights

    @property
    def base(self) -> Any:
        """The original layer."""
        return self.layer.get_base_layer()


def inject(
    family: Family,
    parts: Iterable[str],
    *,
    rank: int,
    alpha: float,
    conv_rank: int = 0,
    conv_alpha: float = 1.0,
    dropout: float = 0.0,
    seed: int = 0,
) -> list[Adapter]:
    """Adds float32 adapters, the only thing that trains in those parts afterwards, and returns them.

    rank and alpha are those of linear layers and 1x1 convolutions; conv_rank > 0 adapts the ResNets too, their 3x3
    convolutions with conv_rank and conv_alpha (kohya's rules). Each adapter starts from its own stream, derived from
    `seed` and its name: down uniform as kaiming with a = sqrt(5), up zero. torch's random state is left as it was.
    """
    for part in parts:
        module = family.parts[part]
        targets = family.adapter_targets(part, conv=conv_rank > 0)
        if not targets:
            raise UserError(f"{part}: there is nothing in it that a LoRA could adapt")
        wide = [t for t in targets if _is_wide(module.get_submodule(t))]
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            target_modules=targets,
            rank_pattern={f"^{re.escape(t)}$": conv_rank for t in wide},
            alpha_pattern={f"^{re.escape(t)}$": conv_alpha for t in wide},
            lora_dropout=dropout,
            init_lora_weights=True,
        )
        with torch.random.fork_rng():
            inject_adapter_in_model(config, module, adapter_name=_NAME)
    added = [adapter for adapter in adapters(family) if adapter.part in set(parts)]
    for adapter in added:
        _start(adapter, seed)
    return added


def adapters(family: Family) -> list[Adapter]:
    """Every adapter of a family, in the order of its parts and of their modules."""
    found = []
    for part, root in family.parts.items():
        for name, layer in root.named_modules():
            if isinstance(layer, BaseTunerLayer):
                found.append(Adapter(part, name, family.adapter_key(part, name), layer, _live(layer)))
    return found


def weights(family: Family) -> dict[str, AdapterWeights]:
    """What a LoRA file holds: the live weights of every adapter by kohya's name."""
    return {adapter.key: adapter.weights for adapter in adapters(family)}


def delta_w(adapter: Adapter) -> torch.Tensor:
    """The change that the adapter makes to its layer's weight, float32, of the weight's shape."""
    return delta(adapter.weights)


def load_into(family: Family, modules: Mapping[str, AdapterWeights], where: str) -> None:
    """Copies the weights of a LoRA file into adapters that are in place. Raises UserError unless all of them fit."""
    live = {adapter.key: adapter for adapter in adapters(family)}
    problems = _misfits(live, modules, where)
    if problems:
        raise UserError(problems)
    with torch.no_grad():
        for key, adapter in live.items():
            for leaf, parameter in adapter.weights.tensors.items():
                parameter.copy_(modules[key].tensors[leaf])
            adapter.layer.lora_alpha[_NAME] = modules[key].alpha
            adapter.layer.scaling[_NAME] = modules[key].scale


@contextmanager
def scaled(family: Family, strength: float) -> Iterator[None]:
    """Inside, every adapter acts `strength` times as strongly; 0 gives the base exactly."""
    changed = [(a.layer, a.layer.scaling[_NAME]) for a in adapters(family)]
    try:
        for layer, scaling in changed:
            layer.scaling[_NAME] = scaling * strength
            layer.enable_adapters(strength != 0)
        yield
    finally:
        for layer, scaling in changed:
            layer.scaling[_NAME] = scaling
            layer.enable_adapters(True)


def merge(family: Family) -> None:
    """Adds every adapter's change to its layer's own weight, for good, and takes the adapters out."""
    for adapter in adapters(family):
        weight = adapter.base.weight
        weight.data = (weight.data.float() + delta_w(adapter).detach()).to(weight.dtype)
        parent, _, leaf = adapter.module.rpartition(".")
        setattr(family.parts[adapter.part].get_submodule(parent), leaf, adapter.base)


def _live(layer: Any) -> AdapterWeights:
    tensors = {DOWN: layer.lora_A[_NAME].weight, UP: layer.lora_B[_NAME].weight}
    return AdapterWeights(tensors, float(layer.lora_alpha[_NAME]))


def _is_wide(layer: nn.Module) -> bool:
    """Whether a layer is a convolution larger than 1x1, which has a rank and alpha of its own."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


def _start(adapter: Adapter, seed: int) -> None:
    """The initial values, float32 whatever the base's precision (peft follows the base's)."""
    for parameter in adapter.weights.tensors.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    down = adapter.weights.down
    fresh = torch.empty(down.shape)
    nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator(seed, f"lora/{adapter.key}"))
    down.data.copy_(fresh)
    adapter.weights.up.data.zero_()


def _misfits(live: Mapping[str, Adapter], modules: Mapping[str, AdapterWeights], where: str) -> list[str]:
    missing, surplus = sorted(live.keys() - modules.keys()), sorted(modules.keys() - live.keys())
    shapes = [
        f"{key} has {leaf} {list(modules[key].tensors[leaf].shape)}, expected {list(tensor.shape)}"
        for key, adapter in live.items()
        if key in modules
        for leaf, tensor in adapter.weights.tensors.items()
        if modules[key].tensors[leaf].shape != tensor.shape
    ]
    return [
        f"{where}: {len(found)} {what}, such as {found[0]}"
        for found, what in (
            (missing, "modules of this setting are not in the file"),
            (surplus, "modules of the file are not in this setting"),
            (shapes, "modules have another rank or shape"),
        )
        if found
    ]
