"""What the tensors of one adapter mean, asked of its kind: the change that it makes to a layer's weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from trainer import registry
from trainer.batch import DOWN, UP, AdapterWeights
from trainer.protocols import AdapterKind


@cache
def kinds() -> dict[str, type[AdapterKind]]:
    """All that are installed, by their names in the config."""
    return {name: registry.find("adapters", name) for name in registry.names("adapters")}


def name_of(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the kind that has these tensors; None where they are incomplete or of mixed kinds."""
    return next((name for name, kind in kinds().items() if kind.claims(tensors)), None)


def kind_of(weights: AdapterWeights) -> type[AdapterKind]:
    name = name_of(weights.tensors)
    assert name is not None, f"no kind of adapter has {sorted(weights.tensors)}"
    return kinds()[name]


def rank(weights: AdapterWeights) -> int:
    """The inner dimension; 0 where there is none."""
    return kind_of(weights).rank(weights)


def scale(weights: AdapterWeights) -> float:
    """alpha / rank; 1 where there is no rank, as LyCORIS has it."""
    return kind_of(weights).scale(weights)


def delta(weights: AdapterWeights) -> Tensor:
    """The change of the layer's weight, float32, of a kind that needs no base to tell; flat where only the base knows
    its shape. Raises RuntimeError or IndexError for misfitting factors."""
    return kind_of(weights).change(weights)


def change(weights: AdapterWeights, base: Tensor) -> Tensor:
    """The change of the layer's weight `base`, float32, of its shape and on its device. Raises RuntimeError or
    IndexError for misfitting factors."""
    moved = replace(weights, tensors={name: tensor.to(base.device) for name, tensor in weights.tensors.items()})
    return kind_of(weights).change(moved, base)


def changes(weights: AdapterWeights, layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By name, the change of each of a layer's parameters ("weight", "bias") that the adapter changes, float32.

    Raises RuntimeError, IndexError or KeyError for what does not fit the layer.
    """
    kind, weight = kind_of(weights), layer["weight"]
    found = {"weight": change(weights, weight)} if kind.changes_weight(weights) else {}
    bias = kind.bias_change(weights)
    if bias is not None:
        found["bias"] = bias.to(weight.device).reshape(layer["bias"].shape)
    return found


def apply(weights: AdapterWeights, base: Tensor, strength: float = 1.0) -> Tensor:
    """The layer's weight with the adapter in it, float32; the strength acts on the whole difference."""
    return base.float() + strength * change(weights, base)


def is_plain(weights: AdapterWeights) -> bool:
    """Whether the change is lora_up @ lora_down and nothing else."""
    return kind_of(weights).plain and weights.tensors.keys() == {DOWN, UP}


def is_finite(weights: AdapterWeights) -> bool:
    # float: types of eight bits have no arithmetic
    return all(bool(torch.isfinite(tensor.float()).all()) for tensor in weights.tensors.values())


def is_zero(weights: AdapterWeights) -> bool:
    """Whether the adapter changes nothing: a product with a factor that is all zeros, and no change of a bias."""
    kind = kind_of(weights)
    bias = kind.bias_change(weights)
    if kind.needs_base(weights) or (bias is not None and bool(bias.any())):
        return False
    factors = [tensor for name, tensor in weights.tensors.items() if name in kind.leaves]
    idle = kind.scale(weights) == 0 or not kind.changes_weight(weights)
    return idle or any(not bool(factor.float().any()) for factor in factors)
