"""Chooses which tensors train and at what learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate; `name` is the part they belong to."""

    name: str
    lr: float
    parameters: list[nn.Parameter]

    def for_optimizer(self) -> dict[str, object]:
        return {"params": self.parameters, "lr": self.lr, "name": self.name}


def unfreeze(part: nn.Module) -> None:
    """Makes a whole part train, in float32 (a full fine-tune)."""
    part.to(torch.float32)
    part.requires_grad_(True)


def groups(parts: Mapping[str, nn.Module], rates: Mapping[str, float]) -> list[Group]:
    """One group per part with something to train; `rates` maps part names to learning rates."""
    found = ((name, [p for p in part.parameters() if p.requires_grad]) for name, part in parts.items())
    return [Group(name, rates[name], parameters) for name, parameters in found if parameters]


def trainable(parts: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """("part.dotted.name", parameter) of everything that trains."""
    for part_name, part in parts.items():
        for name, parameter in part.named_parameters():
            if parameter.requires_grad:
                yield f"{part_name}.{name}", parameter
