"""The peft side of adapters: which configuration each layer gets, and where peft keeps the tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from peft import inject_adapter_in_model
from torch import Tensor, nn

from trainer.adapters.quantise import is_quantised
from trainer.adapters.weights import kind_of, kinds, rank, scale
from trainer.batch import AdapterDropout, AdapterWeights
from trainer.errors import UserError
from trainer.protocols import AdapterKind, Family

ADAPTER = "default"  # peft's name of the one adapter that each layer carries


@dataclass(frozen=True)
class Settings:
    method: str
    rank: int
    alpha: float
    conv_rank: int
    conv_alpha: float
    dropout: AdapterDropout
    by_root: bool = False  # scaled by alpha / sqrt(rank): rsLoRA
    args: Mapping[str, Any] = field(default_factory=dict)  # of the kind alone

    @property
    def kind(self) -> type[AdapterKind]:
        return kinds()[self.method]

    @property
    def own(self) -> Any:
        """The kind's own settings, which the config's checks have seen."""
        return None if self.kind.Settings is None else self.kind.Settings.model_validate(dict(self.args))


@dataclass(frozen=True)
class Size:
    rank: int
    alpha: float


def check(settings: Settings, ranks: Mapping[str, int], family: Family) -> None:
    """Raises UserError for settings that nothing can be made of."""
    trained = [name for name, kind in kinds().items() if kind.trains]
    if settings.method not in trained:
        raise UserError(f"lora.method: {settings.method!r}; expected one of {', '.join(trained)}")
    problems = list(settings.kind.problems(settings.dropout))
    for block in ranks:
        part, _, inner = block.partition(".")
        names = {n for n, _ in family.parts[part].named_modules()} if part in family.parts else set()
        if part not in family.parts or (inner and inner not in names):
            problems.append(f"lora.ranks.{block!r}: there is no such block; names begin with {', '.join(family.parts)}")
    if not settings.kind.plain and any(is_quantised(m) for p in family.parts.values() for m in p.modules()):
        problems.append(f"lora.method: {settings.method} does not work over a base of 8 or 4 bits; use a plain LoRA")
    if problems:
        raise UserError(problems)


def choose(
    part: str, root: nn.Module, targets: list[str], settings: Settings, ranks: Mapping[str, int]
) -> dict[str, Size]:
    """The size of each layer's adapter, without the layers that get none.

    Rank-stabilised ones (Kalajdzievski 2023, arXiv 2312.03732) are scaled by alpha / sqrt(rank). As every reader
    divides by the rank, they get a larger alpha, which stands in the file.
    """
    sizes = {}
    for target in targets:
        rank, alpha = settings.rank, settings.alpha
        if _is_wide(root.get_submodule(target)):
            rank, alpha = settings.conv_rank, settings.conv_alpha
        full = f"{part}.{target}"
        matching = [block for block in ranks if full == block or full.startswith(f"{block}.")]
        if matching:
            own = ranks[max(matching, key=len)]
            rank, alpha = own, alpha if settings.by_root else alpha * own / rank
        if rank:
            sizes[target] = Size(rank, alpha * math.sqrt(rank) if settings.by_root else alpha)
    return sizes


def like(modules: Mapping[str, AdapterWeights]) -> dict[str, Size]:
    """By layer: the size of the adapter that it has in a file; any will do for factors without a rank."""
    return {target: Size(max(1, rank(weights)), weights.alpha) for target, weights in modules.items()}


def add(root: nn.Module, sizes: Mapping[str, Size], settings: Settings) -> None:
    """Injects one adapter per layer; torch's random state is left as it was."""
    patterns = {size: _one_of([t for t, s in sizes.items() if s == size]) for size in set(sizes.values())}
    common: dict[str, Any] = {
        "target_modules": list(sizes),
        "rank_pattern": {pattern: size.rank for size, pattern in patterns.items()},
        "alpha_pattern": {pattern: size.alpha for size, pattern in patterns.items()},
    }
    config = settings.kind.config(common, settings.dropout, settings.own)
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        inject_adapter_in_model(config, root, adapter_name=ADAPTER)


def _one_of(names: Sequence[str]) -> str:
    """A pattern for whole names. One for each size: peft tries all patterns on every layer, which takes half a minute
    for SDXL with one pattern for each of its layers."""
    return f"^({'|'.join(map(re.escape, names))})$"


def live_weights(layer: Any) -> AdapterWeights:
    """The layer's parameters under the names that they have in a file; all share memory with the parameters."""
    found = {
        leaf: tensor
        for kind in kinds().values()
        for leaf in kind.trainable
        if (tensor := _parameter(layer, kind.attributes.get(leaf, leaf))) is not None
    }
    return AdapterWeights(found, float(_alphas(layer)[ADAPTER]))


def _parameter(layer: Any, attribute: str) -> Tensor | None:
    """What peft keeps under a name for our adapter: a parameter, or a module with a weight."""
    kept: Mapping[str, Any] = getattr(layer, attribute, {})
    if ADAPTER not in kept:
        return None
    found = kept[ADAPTER]
    return found if isinstance(found, Tensor) else cast(Tensor, found.weight)


def _alphas(layer: Any) -> dict[str, float]:
    return layer.lora_alpha if hasattr(layer, "lora_alpha") else layer.alpha


def load(layer: Any, source: AdapterWeights) -> None:
    """Gives a layer's adapter the tensors of a file, and its scale. Their form may be another one than peft gives new
    adapters: LoKr's factors whole or in parts, DoRA's magnitudes on the other axis."""
    live, attributes = live_weights(layer).tensors, kind_of(source).attributes
    for leaf in live.keys() - source.tensors.keys():
        del getattr(layer, attributes.get(leaf, leaf))[ADAPTER]
    for leaf, tensor in source.tensors.items():
        there = live.get(leaf)
        if there is not None and fits(tensor.shape, there.shape):
            there.copy_(tensor.reshape(there.shape))
        else:
            new = nn.Parameter(tensor.detach().float().to(layer.get_base_layer().weight.device))
            kept = getattr(layer, attributes.get(leaf, leaf))
            if isinstance(kept, nn.ModuleDict):
                kept[ADAPTER].weight = new
            else:
                kept[ADAPTER] = new
    _alphas(layer)[ADAPTER] = source.alpha
    layer.scaling[ADAPTER] = scale(source)


def fits(found: torch.Size, expected: torch.Size) -> bool:
    """The same shape but for trailing ones, which tell a 1x1 convolution from a linear layer, or for the cells of a
    kernel being counted with the inputs."""

    def core(shape: torch.Size) -> tuple[int, ...]:
        return tuple(shape[:2]) if set(shape[2:]) <= {1} else tuple(shape)

    flat = (found[0], found[1:].numel()) if found else ()
    return core(found) == core(expected) or found == expected or flat == tuple(expected)


def _is_wide(layer: nn.Module) -> bool:
    """Whether a layer is a convolution larger than 1x1, which has a rank and alpha of its own."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
