"""Chooses which tensors train and at what learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from trainer.errors import UserError


@dataclass(frozen=True)
class Rates:
    """Learning rates: of each part, of blocks by the beginning of their dotted names, of a LoRA's up matrices."""

    parts: Mapping[str, float]  # "unet" -> 1e-4
    blocks: Mapping[str, float] = field(default_factory=dict)  # "unet.down_blocks.0" -> 5e-5; 0 = does not train
    lora_plus: float = 1.0  # factor of the up matrices (LoRA+: Hayou et al. 2024, arXiv 2402.12354)

    def of(self, part: str, name: str) -> float:
        """The rate of the parameter `name` (dotted, inside its part): the longest matching block's, else the part's."""
        full = f"{part}.{name}"
        matching = [prefix for prefix in self.blocks if full == prefix or full.startswith(f"{prefix}.")]
        rate = self.blocks[max(matching, key=len)] if matching else self.parts[part]
        return rate * self.lora_plus if is_lora_up(name) else rate


@dataclass(frozen=True)
class Group:
    """Parameters that share a part and a learning rate."""

    name: str
    part: str
    lr: float
    parameters: list[nn.Parameter]

    def for_optimizer(self) -> dict[str, object]:
        return {"params": self.parameters, "lr": self.lr, "name": self.name}


def is_lora_up(name: str) -> bool:
    """Whether a parameter is the second factor of a peft adapter."""
    return ".lora_B." in name


def unfreeze(part: nn.Module) -> None:
    """Makes a whole part train, in float32 (a full fine-tune)."""
    part.to(torch.float32)
    part.requires_grad_(True)


def groups(parts: Mapping[str, nn.Module], rates: Rates) -> list[Group]:
    """One group per part and rate; parameters with rate 0 are frozen. Raises UserError for a block that isn't there."""
    unknown = [prefix for prefix in rates.blocks if not _matches_any(prefix, parts)]
    if unknown:
        names = sorted({f"{p}.{n}" for p, part in parts.items() for n, _ in part.named_children()})
        raise UserError(
            f"optimizer.rates.{prefix!r}: nothing that trains is called so; blocks are {', '.join(names[:12])}, ..."
            for prefix in unknown
        )
    found: dict[tuple[str, float], list[nn.Parameter]] = {}
    for part_name, part in parts.items():
        for name, parameter in part.named_parameters():
            if parameter.requires_grad:
                found.setdefault((part_name, rates.of(part_name, name)), []).append(parameter)
    for parameter in (p for (_, rate), members in found.items() if rate == 0 for p in members):
        parameter.requires_grad_(False)
    kept = {key: members for key, members in found.items() if key[1] > 0}
    counts = [part for part, _ in kept]
    return [
        Group(part if counts.count(part) == 1 else f"{part} {rate:g}", part, rate, members)
        for (part, rate), members in kept.items()
    ]


def trainable(parts: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """("part.dotted.name", parameter) of everything that trains."""
    for part_name, part in parts.items():
        for name, parameter in part.named_parameters():
            if parameter.requires_grad:
                yield f"{part_name}.{name}", parameter


def _matches_any(prefix: str, parts: Mapping[str, nn.Module]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for name, _ in trainable(parts))
