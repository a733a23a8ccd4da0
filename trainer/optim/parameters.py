"""Chooses which tensors train and at what learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import nn

from trainer.errors import UserError

Window = tuple[float, float]  # from and until a step; below 1 a share of the run, until 0 = to the end
ALWAYS: Window = (0, 0)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Rates:
    """Learning rates: of each part, of blocks by the beginning of their dotted names, of a LoRA's up matrices."""

    parts: Mapping[str, float]  # "unet" -> 1e-4
    blocks: Mapping[str, float] = field(default_factory=dict)  # "unet.down_blocks.0" -> 5e-5; 0 = does not train
    windows: Mapping[str, Window] = field(default_factory=dict)  # when blocks learn, by the beginning of their names
    lora_plus: float = 1.0  # factor of the up matrices (LoRA+: Hayou et al. 2024, arXiv 2402.12354)

    def of(self, part: str, name: str) -> float:
        """The rate of the parameter `name` (dotted, inside its part): the longest matching block's, else the part's."""
        rate = _longest(self.blocks, f"{part}.{name}", self.parts[part])
        return rate * self.lora_plus if is_lora_up(name) else rate

    def window(self, part: str, name: str) -> Window:
        """When the parameter learns: the window of the longest matching block."""
        return _longest(self.windows, f"{part}.{name}", ALWAYS)


@dataclass(frozen=True)
class Group:
    """Parameters that share a part and a learning rate."""

    name: str
    part: str
    lr: float
    parameters: list[nn.Parameter]
    window: Window = ALWAYS
    options: Mapping[str, object] = field(default_factory=dict)  # what the optimizer is told about the group besides

    def steps(self, total: int) -> range:
        """The steps, counted from 0, in which the group learns."""
        first, last = (round(at * total) if 0 < at < 1 else int(at) for at in self.window)
        return range(first, min(last or total, total))

    def for_optimizer(self) -> dict[str, object]:
        return {"params": self.parameters, "lr": self.lr, "name": self.name, **self.options}


def is_lora_up(name: str) -> bool:
    """Whether a parameter is the second factor of a peft adapter."""
    return ".lora_B." in name


def unfreeze(part: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Makes a whole part train (a full fine-tune), with its weights kept in `dtype`."""
    part.to(dtype)
    part.requires_grad_(True)


def groups(parts: Mapping[str, nn.Module], rates: Rates) -> list[Group]:
    """One group per part and rate; parameters with rate 0 are frozen. Raises UserError for a block that isn't there."""
    _refuse_unknown("rates", rates.blocks, parts)
    _refuse_unknown("windows", rates.windows, parts)
    found: dict[tuple[str, float, Window], list[nn.Parameter]] = {}
    for part_name, part in parts.items():
        for name, parameter in part.named_parameters():
            if parameter.requires_grad:
                key = (part_name, rates.of(part_name, name), rates.window(part_name, name))
                found.setdefault(key, []).append(parameter)
    for parameter in (p for (_, rate, _), members in found.items() if rate == 0 for p in members):
        parameter.requires_grad_(False)
    kept = {key: members for key, members in found.items() if key[1] > 0}
    if not kept:
        raise UserError("optimizer.rates: with these rates nothing trains; give a block a rate above 0.")
    return [
        Group(_name(kept, part, rate, window), part, rate, members, window)
        for (part, rate, window), members in kept.items()
    ]


def _refuse_unknown(key: str, blocks: Iterable[str], parts: Mapping[str, nn.Module]) -> None:
    if unknown := [prefix for prefix in blocks if not _matches_any(prefix, parts)]:
        names = sorted({f"{p}.{n}" for p, part in parts.items() for n, _ in part.named_children()})
        raise UserError(
            f"optimizer.{key}.{prefix!r}: nothing that trains is called so; blocks are {', '.join(names[:12])}, ..."
            for prefix in unknown
        )


def _name(kept: Iterable[tuple[str, float, Window]], part: str, rate: float, window: Window) -> str:
    """The part's name, with as much behind it as tells its groups apart."""
    alike = [(r, w) for p, r, w in kept if p == part]
    name = part if len({r for r, _ in alike}) == 1 else f"{part} {rate:g}"
    if len({w for _, w in alike}) == 1:
        return name
    return f"{name} {window[0]:g}-{f'{window[1]:g}' if window[1] else 'end'}"


def _longest(blocks: Mapping[str, Value], full: str, otherwise: Value) -> Value:
    """The value of the longest name that `full` begins with."""
    matching = [prefix for prefix in blocks if full == prefix or full.startswith(f"{prefix}.")]
    return blocks[max(matching, key=len)] if matching else otherwise


def trainable(parts: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """("part.dotted.name", parameter) of everything that trains."""
    for part_name, part in parts.items():
        for name, parameter in part.named_parameters():
            if parameter.requires_grad:
                yield f"{part_name}.{name}", parameter


def _matches_any(prefix: str, parts: Mapping[str, nn.Module]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for name, _ in trainable(parts))
