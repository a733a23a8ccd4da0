"""One name for each layer: LoRA files call a layer by any of several names, and some by two at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from trainer import registry
from trainer.adapters.weights import is_plain, scale
from trainer.batch import DOWN, UP, AdapterWeights
from trainer.errors import UserError
from trainer.protocols import Family

Modules = Mapping[str, AdapterWeights]


@dataclass(frozen=True)
class Weighted:
    """A LoRA file's modules, how strongly they count, the file's name for messages, and what its header says."""

    modules: Modules
    strength: float
    where: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def places(family: Family) -> dict[str, tuple[str, str]]:
    """Every name that a LoRA file may use -> (part, module), of all layers with weights: other trainers adapt more of
    them than kohya's selection."""
    return {
        name: (part, target)
        for part, root in family.parts.items()
        for target, module in root.named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter)
        for name in (family.adapter_key(part, target), *family.adapter_aliases(part, target))
    }


def canonical(family: Family, modules: Modules, where: str = "") -> dict[str, AdapterWeights]:
    """The same modules under kohya's names, where the family knows them; the others keep theirs. Entries for one layer
    add up. Raises UserError where they cannot."""
    names = {name: family.adapter_key(part, target) for name, (part, target) in places(family).items()}
    return _one_each(Weighted({}, 1.0, where), {name: names.get(name, name) for name in modules}, modules)


def unified(files: Sequence[Weighted]) -> list[Weighted]:
    """The same changes under kohya's names, as far as they are known without a base; entries for one layer add up.

    Raises UserError where files are for different families, or names do not tell which layer they mean.
    """
    names = _names(files)
    return [Weighted(_one_each(f, names, f.modules), f.strength, f.where, f.metadata) for f in files]


def either_way(file: Weighted) -> Sequence[str]:
    """How kohya's names of layers end that some programs take for linear layers and others for 1x1 convolutions."""
    own = _family_of(file)
    families = registry.names("models") if own is None else (own,)
    return list(dict.fromkeys(end for name in families for end in registry.find("models", name).either_way))


def doubled(file: Weighted) -> list[str]:
    """The layers that a file has under several names, such as "one = other"; none where names alone do not tell."""
    try:
        names = _names([file])
    except UserError:
        return []
    return [" = ".join(group) for group in _grouped(names, file.modules).values() if len(group) > 1]


def _names(files: Sequence[Weighted]) -> dict[str, str]:
    """Each name in the files -> the one to use."""
    known = {f.where: found for f in files if (found := _family_of(f)) is not None}
    if len(set(known.values())) > 1:
        told = ", ".join(f"{where} is for {name}" for where, name in known.items())
        raise UserError(f"the files are for different models ({told})")
    shapes = {n: [tuple(t.shape) for t in m.tensors.values()] for f in files for n, m in f.modules.items()}
    families = [next(iter(known.values()))] if known else registry.names("models")
    understood = [registry.find("models", name).lora_names(shapes, sure=bool(known)) for name in families]
    found = max(understood, key=len)  # of the family that knows most of them
    return {name: found.get(name, name) for name in shapes}


def _family_of(file: Weighted) -> str | None:
    """The family that a file is for, where it tells."""
    shapes = {f"{name}.{leaf}": tuple(t.shape) for name, m in file.modules.items() for leaf, t in m.tensors.items()}
    return next(
        (n for n in registry.names("models") if registry.find("models", n).recognises_lora(shapes, file.metadata)), None
    )


def _one_each(file: Weighted, names: Mapping[str, str], modules: Modules) -> dict[str, AdapterWeights]:
    groups = _grouped(names, modules)
    return {name: _sum(file.where, group, [modules[n] for n in group]) for name, group in groups.items()}


def _grouped(names: Mapping[str, str], modules: Modules) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name in modules:
        grouped.setdefault(names[name], []).append(name)
    return grouped


def _sum(where: str, names: Sequence[str], parts: Sequence[AdapterWeights]) -> AdapterWeights:
    if len(parts) == 1:
        return parts[0]
    if not all(map(is_plain, parts)):
        raise UserError(
            f"{where}: {' and '.join(names)} are one layer, and only plain LoRAs can be joined; merge it into a base, "
            "where they add up"
        )
    return joined([(part, 1.0) for part in parts], f"{where}: {names[0]}")


def joined(parts: Sequence[tuple[AdapterWeights, float]], what: str) -> AdapterWeights:
    """One plain LoRA that acts exactly as all together, each with its strength: ranks add up. Raises UserError."""
    shapes = {(m.up.shape[0], *_core(m.down.shape[1:])) for m, _ in parts}
    if len(shapes) > 1:
        raise UserError(f"{what}: the files are for different models (its layer has the shapes {sorted(shapes)})")
    first = parts[0][0]
    up = torch.cat([m.up.float().flatten(1) * scale(m) * strength for m, strength in parts], dim=1)
    down = torch.cat([m.down.float().reshape(m.down.shape[0], *first.down.shape[1:]) for m, _ in parts])
    up = up.reshape(*up.shape, *(1,) * (first.up.ndim - 2))
    return AdapterWeights({DOWN: down, UP: up}, float(down.shape[0]))


def _core(shape: Sequence[int]) -> tuple[int, ...]:
    """A 1x1 convolution and a linear layer have the same factors."""
    return tuple(shape[:1]) if set(shape[1:]) <= {1} else tuple(shape)
