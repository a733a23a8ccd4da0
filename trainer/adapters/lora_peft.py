"""The peft side of adapters: which configuration each layer gets, and where peft keeps the tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from trainer.adapters import lora_dropout
from trainer.adapters.adapter_weights import DOWN, LEAVES, MAGNITUDE, UP, AdapterWeights
from trainer.device.quantise import is_quantised
from trainer.errors import UserError
from trainer.protocols import Family

ADAPTER = "default"  # peft's name of the one adapter that each layer carries
METHODS = ("lora", "dora", "loha", "lokr")


@dataclass(frozen=True)
class Settings:
    method: str
    rank: int
    alpha: float
    conv_rank: int
    conv_alpha: float
    dropout: float
    rank_dropout: float
    module_dropout: float


@dataclass(frozen=True)
class Size:
    rank: int
    alpha: float


def check(settings: Settings, ranks: Mapping[str, int], family: Family) -> None:
    """Raises UserError for settings that nothing can be made of."""
    problems = []
    if settings.method not in METHODS:
        problems.append(f"lora.method: {settings.method!r}; expected one of {', '.join(METHODS)}")
    if settings.method == "dora" and (settings.rank_dropout or settings.module_dropout):
        problems.append("lora.method: DoRA has no rank_dropout or module_dropout; set them to 0, or use lora.dropout")
    if settings.method in ("loha", "lokr") and settings.dropout:
        problems.append(f"lora.dropout: {settings.method} has none; use lora.rank_dropout or lora.module_dropout")
    for block in ranks:
        part, _, inner = block.partition(".")
        names = {n for n, _ in family.parts[part].named_modules()} if part in family.parts else set()
        if part not in family.parts or (inner and inner not in names):
            problems.append(f"lora.ranks.{block!r}: there is no such block; names begin with {', '.join(family.parts)}")
    if settings.method != "lora" and any(is_quantised(m) for p in family.parts.values() for m in p.modules()):
        problems.append(f"lora.method: {settings.method} does not work over a base of 8 or 4 bits; use lora")
    if problems:
        raise UserError(problems)


def choose(
    part: str, root: nn.Module, targets: list[str], settings: Settings, ranks: Mapping[str, int]
) -> dict[str, Size]:
    """The size of each layer's adapter, without the layers that get none."""
    sizes = {}
    for target in targets:
        rank, alpha = settings.rank, settings.alpha
        if _is_wide(root.get_submodule(target)):
            rank, alpha = settings.conv_rank, settings.conv_alpha
        full = f"{part}.{target}"
        matching = [block for block in ranks if full == block or full.startswith(f"{block}.")]
        if matching:
            own = ranks[max(matching, key=len)]
            rank, alpha = own, alpha * own / rank
        if rank:
            sizes[target] = Size(rank, alpha)
    return sizes


def add(root: nn.Module, sizes: Mapping[str, Size], settings: Settings) -> None:
    """Injects one adapter per layer; torch's random state is left as it was."""
    patterns = {size: _one_of([t for t, s in sizes.items() if s == size]) for size in set(sizes.values())}
    common: dict[str, Any] = {
        "target_modules": list(sizes),
        "rank_pattern": {pattern: size.rank for size, pattern in patterns.items()},
        "alpha_pattern": {pattern: size.alpha for size, pattern in patterns.items()},
    }
    config: Any
    if settings.method in ("lora", "dora"):
        config = LoraConfig(use_dora=settings.method == "dora", lora_dropout=settings.dropout, **common)
    else:
        kind = LoHaConfig if settings.method == "loha" else LoKrConfig
        config = kind(rank_dropout=settings.rank_dropout, module_dropout=settings.module_dropout, **common)
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        inject_adapter_in_model(config, root, adapter_name=ADAPTER)


def _one_of(names: Sequence[str]) -> str:
    """A pattern for whole names. One for each size: peft tries all patterns on every layer, which takes half a minute
    for SDXL with one pattern for each of its layers."""
    return f"^({'|'.join(map(re.escape, names))})$"


def add_dropout(layer: Any, settings: Settings) -> None:
    """kohya's dropouts, which peft's LoRA lacks (its LoHa and LoKr have them)."""
    if settings.method == "lora" and settings.rank_dropout:
        lora_dropout.add_rank_dropout(layer.lora_A[ADAPTER], settings.rank_dropout)
    if settings.method == "lora" and settings.module_dropout:
        lora_dropout.add_module_dropout(layer.lora_B[ADAPTER], settings.module_dropout)


def live_weights(layer: Any) -> AdapterWeights:
    """The layer's parameters under the names that they have in a file; all share memory with the parameters."""
    if hasattr(layer, "lora_A"):
        tensors: dict[str, Tensor] = {DOWN: layer.lora_A[ADAPTER].weight, UP: layer.lora_B[ADAPTER].weight}
        if ADAPTER in layer.lora_magnitude_vector:
            magnitude = layer.lora_magnitude_vector[ADAPTER].weight
            ones = (1,) * (layer.get_base_layer().weight.ndim - 1)
            tensors[MAGNITUDE] = magnitude.view(-1, *ones)
        return AdapterWeights(tensors, float(layer.lora_alpha[ADAPTER]))
    leaves = (*LEAVES["loha"], *LEAVES["lokr"])
    found = {leaf: getattr(layer, leaf)[ADAPTER] for leaf in leaves if ADAPTER in getattr(layer, leaf, {})}
    live = AdapterWeights(found, float(layer.alpha[ADAPTER]))
    if not live.rank:
        layer.scaling[ADAPTER] = live.scale  # readers of LyCORIS files don't scale a LoKr of two whole factors
    return live


def set_scale(layer: Any, source: AdapterWeights) -> None:
    """Makes the layer scale as the file says."""
    alphas = layer.lora_alpha if hasattr(layer, "lora_alpha") else layer.alpha
    alphas[ADAPTER] = source.alpha
    layer.scaling[ADAPTER] = source.scale


def _is_wide(layer: nn.Module) -> bool:
    """Whether a layer is a convolution larger than 1x1, which has a rank and alpha of its own."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
