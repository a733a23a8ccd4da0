"""Puts adapters (LoRA, DoRA, LoHa, LoKr) into the parts of a family, and reads, scales, loads and merges them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from trainer import lora_file
from trainer.adapters import lora_peft
from trainer.adapters.adapter_weights import MAGNITUDE, UP, AdapterWeights, apply, delta
from trainer.adapters.lora_peft import ADAPTER, Settings
from trainer.device.quantise import is_quantised
from trainer.errors import UserError
from trainer.protocols import Family
from trainer.randomness import generator

_ZERO = (UP, "hada_w2_b", "lokr_w1", "lokr_w1_a")  # the factor of each kind that starts at zero


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
    method: str = "lora",
    rank_dropout: float = 0.0,
    module_dropout: float = 0.0,
    ranks: Mapping[str, int] | None = None,
) -> list[Adapter]:
    """Adds float32 adapters, the only thing that trains in those parts afterwards, and returns them.

    rank and alpha are those of linear layers and 1x1 convolutions; conv_rank > 0 adapts the ResNets too, their 3x3
    convolutions with conv_rank and conv_alpha (kohya's rules). method: "lora", "dora", "loha" or "lokr". ranks: other
    ranks for blocks by the beginning of their dotted names ("unet.down_blocks.0"), with the same alpha per rank; the
    longest name counts, 0 leaves the block out. Each adapter starts from its own stream, derived from `seed` and its
    name, as no change at all; torch's random state is left as it was. Raises UserError.
    """
    settings = Settings(method, rank, alpha, conv_rank, conv_alpha, dropout, rank_dropout, module_dropout)
    lora_peft.check(settings, ranks or {}, family)
    wanted = list(parts)
    for part in wanted:
        targets = family.adapter_targets(part, conv=conv_rank > 0)
        chosen = lora_peft.choose(part, family.parts[part], targets, settings, ranks or {})
        if not chosen:
            raise UserError(f"{part}: there is nothing in it that a LoRA would adapt")
        lora_peft.add(family.parts[part], chosen, settings)
    added = [adapter for adapter in adapters(family) if adapter.part in wanted]
    for adapter in added:
        _start(adapter, seed)
        lora_peft.add_dropout(adapter.layer, settings)
    return added


def adapters(family: Family) -> list[Adapter]:
    """Every adapter of a family, in the order of its parts and of their modules."""
    found = []
    for part, root in family.parts.items():
        for name, layer in root.named_modules():
            if isinstance(layer, BaseTunerLayer):
                key = family.adapter_key(part, name)
                found.append(Adapter(part, name, key, layer, lora_peft.live_weights(layer)))
    return found


def weights(family: Family) -> dict[str, AdapterWeights]:
    """What a LoRA file holds: the live weights of every adapter by kohya's name."""
    return {adapter.key: adapter.weights for adapter in adapters(family)}


def delta_w(adapter: Adapter) -> Tensor:
    """The change that the adapter makes to its layer's weight, float32, of the weight's shape."""
    if adapter.weights.magnitude is None:
        return delta(adapter.weights, _shape(adapter.base))
    base = dequantize_module_weight(adapter.base)
    return apply(adapter.weights, base) - base.float()


def load_into(family: Family, modules: Mapping[str, AdapterWeights], where: str) -> None:
    """Copies the weights of a LoRA file into adapters that are in place. Raises UserError unless all of them fit.

    The names may be any that the family knows its modules by. Alphas become those of the file.
    """
    matched = match(family, adapters(family), modules)
    problems = _misfits(matched, modules, where)
    if problems:
        raise UserError(problems)
    with torch.no_grad():
        for adapter, name in matched:
            source = modules[str(name)]
            for leaf, parameter in adapter.weights.tensors.items():
                parameter.copy_(source.tensors[leaf].reshape(parameter.shape))
            lora_peft.set_scale(adapter.layer, source)


def save(family: Family, path: Path, *, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """Writes all adapters as a LoRA file, once our reader and the one that the family's users have (diffusers') give
    back the same changes. Raises UserError and keeps an older file otherwise."""

    def prove(file: Path) -> None:
        _prove(family, file, path)

    lora_file.write(path, weights(family), dtype=dtype, metadata=metadata, prove=prove)


def init_from(family: Family, path: Path) -> None:
    """Continues from a LoRA file of any format: its weights go into the adapters in place. Raises UserError."""
    file = lora_file.read(path)
    try:
        load_into(family, file.modules, str(path))
    except UserError as error:
        made_for = file.metadata.get("ss_base_model_version")
        told = f"; it was made for {made_for}, this base is {family.base_version}" if made_for else ""
        hint = f"{path}: does not fit the LoRA of this config{told}. Rank, method and trained parts must be the file's."
        raise UserError([hint, *error.problems]) from error


def match(
    family: Family, live: Iterable[Adapter], modules: Mapping[str, AdapterWeights]
) -> list[tuple[Adapter, str | None]]:
    """Each adapter with the name under which the file has it, or None."""
    return [
        (a, next((n for n in (a.key, *family.adapter_aliases(a.part, a.module)) if n in modules), None)) for a in live
    ]


@contextmanager
def scaled(family: Family, strength: float) -> Iterator[None]:
    """Inside, every adapter's scale is `strength` times its own; 0 gives the base exactly."""
    changed = [(a.layer, a.layer.scaling[ADAPTER]) for a in adapters(family)]
    try:
        for layer, scaling in changed:
            layer.scaling[ADAPTER] = scaling * strength
            layer.enable_adapters(strength != 0)
        yield
    finally:
        for layer, scaling in changed:
            layer.scaling[ADAPTER] = scaling
            layer.enable_adapters(True)


def merge(family: Family, strength: float = 1.0) -> None:
    """Adds every adapter's change to its layer's own weight, for good, and takes the adapters out.

    Raises UserError when the weights are held in 8 or 4 bits, which have no room for it.
    """
    found = adapters(family)
    if any(is_quantised(adapter.base) for adapter in found):
        raise UserError("a LoRA cannot be merged into weights of 8 or 4 bits; load the base in full precision for that")
    for adapter in found:
        weight = adapter.base.weight
        weight.data = apply(adapter.weights, weight, strength).detach().to(weight.dtype)
        parent, _, leaf = adapter.module.rpartition(".")
        setattr(family.parts[adapter.part].get_submodule(parent), leaf, adapter.base)


def _prove(family: Family, file: Path, path: Path) -> None:
    """Raises UserError when another reader than ours makes something else of a file."""
    theirs = family.read_lora(file)
    if theirs is None:
        return
    for adapter, name in match(family, adapters(family), theirs):
        if name is None or not lora_file.matches(theirs[name], adapter.weights):
            raise UserError(
                f"{path}: not written, diffusers would read {adapter.key} as another change than was trained"
            )


def _shape(layer: Any) -> torch.Size:
    """Of the layer's weight, also where it is held packed."""
    linear = isinstance(layer, nn.Linear)
    return torch.Size([layer.out_features, layer.in_features]) if linear else layer.weight.shape


def _start(adapter: Adapter, seed: int) -> None:
    """The initial values, float32 whatever the base's precision (peft follows the base's)."""
    for name, parameter in adapter.layer.named_parameters():
        if not name.startswith("base_layer."):
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    stream = generator(seed, f"lora/{adapter.key}")
    for leaf, tensor in lora_peft.live_weights(adapter.layer).tensors.items():
        if leaf in _ZERO:
            tensor.data.zero_()
        elif leaf != MAGNITUDE:
            fresh = torch.empty(tensor.shape)
            nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=stream)
            tensor.data.copy_(fresh)


def _misfits(matched: list[tuple[Adapter, str | None]], modules: Mapping[str, AdapterWeights], where: str) -> list[str]:
    missing = [adapter.key for adapter, name in matched if name is None]
    surplus = sorted(modules.keys() - {name for _, name in matched})
    found = [(adapter, modules[name]) for adapter, name in matched if name is not None]
    kinds = [f"{a.key} is {m.kind}, expected {a.weights.kind}" for a, m in found if not _same_kind(a.weights, m)]
    shapes = [
        f"{adapter.key} has {leaf} {list(source.tensors[leaf].shape)}, expected {list(tensor.shape)}"
        for adapter, source in found
        if _same_kind(adapter.weights, source)
        for leaf, tensor in adapter.weights.tensors.items()
        if not _fits(source.tensors[leaf].shape, tensor.shape)
    ]
    return [
        f"{where}: {len(lines)} {what}, such as {lines[0]}"
        for lines, what in (
            (missing, "modules of this setting are not in the file"),
            (surplus, "modules of the file are not in this setting"),
            (kinds, "modules are of another kind"),
            (shapes, "modules have another rank or shape"),
        )
        if lines
    ]


def _same_kind(live: AdapterWeights, source: AdapterWeights) -> bool:
    return live.tensors.keys() == source.tensors.keys()


def _fits(found: torch.Size, expected: torch.Size) -> bool:
    """The same shape but for trailing ones: a 1x1 convolution and a linear layer have the same factors."""

    def core(shape: torch.Size) -> tuple[int, ...]:
        return tuple(shape[:2]) if set(shape[2:]) <= {1} else tuple(shape)

    return core(found) == core(expected) or found == expected
