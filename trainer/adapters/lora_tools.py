"""What can be done with LoRA files besides training: combine, resize, extract, put into a base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.adapters import low_rank
from trainer.adapters.adapter_weights import DOWN, MID, UP, AdapterWeights, apply, delta
from trainer.errors import UserError
from trainer.protocols import Family

Modules = Mapping[str, AdapterWeights]


@dataclass(frozen=True)
class Weighted:
    """A LoRA file's modules, how strongly they count, and the file's name for messages."""

    modules: Modules
    strength: float
    where: str


@dataclass(frozen=True)
class Approximated:
    modules: dict[str, AdapterWeights]
    kept: float  # share of the squared size of all changes together that the approximation has, 0 to 1


def concatenate(files: Sequence[Weighted]) -> dict[str, AdapterWeights]:
    """One LoRA that acts exactly as all together: ranks add up. Raises UserError for kinds that cannot be joined."""
    joined = {}
    for name in _all_names(files):
        parts = [(f.modules[name], f.strength) for f in files if name in f.modules]
        _refuse(name, files, joinable_only=True)
        shapes = {(m.up.shape[0], *m.down.shape[1:]) for m, _ in parts}
        if len(shapes) > 1:
            raise UserError(f"{name}: the files are for different models (its layer has the shapes {sorted(shapes)})")
        up = torch.cat([m.up.float() * m.scale * strength for m, strength in parts], dim=1)
        down = torch.cat([m.down.float() for m, _ in parts])
        joined[name] = AdapterWeights({DOWN: down, UP: up}, float(down.shape[0]))
    return joined


def combine(files: Sequence[Weighted], rank: int, conv_rank: int = 0) -> Approximated:
    """One LoRA of the given rank that is nearest to the sum of all; `conv_rank` 0 = the same for convolutions."""
    changes = {}
    for name in _all_names(files):
        _refuse(name, files, joinable_only=False)
        parts = [f.strength * delta(f.modules[name]) for f in files if name in f.modules]
        if len({part.shape for part in parts}) > 1:
            raise UserError(
                f"{name}: the files are for different models, or LoHa and LoKr of convolutions are among them"
            )
        changes[name] = torch.stack(parts).sum(0)
    return _approximate(changes, rank, conv_rank)


def resize(modules: Modules, rank: int, conv_rank: int = 0, where: str = "") -> Approximated:
    """The nearest LoRA of another rank; `conv_rank` 0 = the same for convolutions. Raises UserError but for LoRA."""
    _refuse_all(modules, where)
    resized = {n: low_rank.truncate(m, _rank_for(delta_shape(m), rank, conv_rank)) for n, m in modules.items()}
    whole = sum(float(delta(m).square().sum()) for m in modules.values())
    missing = sum(float((delta(m) - delta(resized[n])).square().sum()) for n, m in modules.items())
    return Approximated(resized, 1 - missing / whole if whole else 1.0)


def extract(tuned: Family, base: Family, parts: Iterable[str], rank: int, conv_rank: int = 0) -> Approximated:
    """The LoRA that turns `base` nearest into `tuned`; `conv_rank` 0 leaves the ResNets' convolutions out.

    Layers that do not differ get no module. Raises UserError when the two are not of one architecture, or equal.
    """
    changes: dict[str, Tensor] = {}
    for part in parts:
        for target in base.adapter_targets(part, conv=conv_rank > 0):
            old = base.parts[part].get_parameter(f"{target}.weight")
            try:
                new = tuned.parts[part].get_parameter(f"{target}.weight")
            except (KeyError, AttributeError) as error:
                raise UserError(f"{part}.{target}: only one of the two models has it") from error
            if old.shape != new.shape:
                raise UserError(
                    f"{part}.{target}: {list(new.shape)} and {list(old.shape)}: two different architectures"
                )
            if not torch.equal(old, new):
                changes[base.adapter_key(part, target)] = (new.float() - old.float()).detach()
    if not changes:
        raise UserError("the two models are the same in every layer that a LoRA adapts; there is nothing to extract")
    return _approximate(changes, rank, conv_rank)


def put_into(family: Family, modules: Modules, strength: float, where: str) -> int:
    """Adds a LoRA to the base's own weights, for good; returns how many layers changed.

    Raises UserError, and changes nothing, when the file has a module that the base lacks or of another shape.
    """
    found = {name: place for name, place in _places(family).items() if name in modules}
    strangers = sorted(modules.keys() - found.keys())
    if strangers:
        raise UserError(
            f"{where}: {len(strangers)} of {len(modules)} modules are not in this base, such as {strangers[0]}; "
            "is it for another model?"
        )
    changed: dict[str, Tensor] = {}
    for name, (part, target) in found.items():
        weight = family.parts[part].get_parameter(f"{target}.weight")
        try:
            changed[name] = apply(modules[name], weight.detach(), strength).to(weight.dtype)
        except RuntimeError as error:
            raise UserError(f"{where}: {name} does not fit the base's layer {list(weight.shape)}") from error
    with torch.no_grad():
        for name, (part, target) in found.items():
            family.parts[part].get_parameter(f"{target}.weight").copy_(changed[name])
    return len(changed)


@contextmanager
def applied(family: Family, modules: Modules, strength: float, where: str) -> Iterator[None]:
    """Inside, a LoRA is in the base's weights; afterwards they are what they were, bit for bit. Raises UserError."""
    before = {
        (part, target): family.parts[part].get_parameter(f"{target}.weight").detach().clone()
        for name, (part, target) in _places(family).items()
        if name in modules
    }
    put_into(family, modules, strength, where)
    try:
        yield
    finally:
        with torch.no_grad():
            for (part, target), weight in before.items():
                family.parts[part].get_parameter(f"{target}.weight").copy_(weight)


def _places(family: Family) -> dict[str, tuple[str, str]]:
    """Every name that a LoRA file may use -> (part, module)."""
    return {
        name: (part, target)
        for part in family.parts
        for target in family.adapter_targets(part, conv=True)
        for name in (family.adapter_key(part, target), *family.adapter_aliases(part, target))
    }


def canonical(family: Family, modules: Modules) -> dict[str, AdapterWeights]:
    """The same modules under kohya's names, where the family knows them; the others keep theirs."""
    names = {name: family.adapter_key(part, target) for name, (part, target) in _places(family).items()}
    return {names.get(name, name): weights for name, weights in modules.items()}


def delta_shape(weights: AdapterWeights) -> tuple[int, ...]:
    return (weights.up.shape[0], *weights.down.shape[1:])


def _approximate(changes: Mapping[str, Tensor], rank: int, conv_rank: int) -> Approximated:
    modules = {n: low_rank.from_change(c, _rank_for(c.shape, rank, conv_rank)) for n, c in changes.items()}
    whole = sum(float(change.square().sum()) for change in changes.values())
    missing = sum(float((change - delta(modules[n])).square().sum()) for n, change in changes.items())
    return Approximated(modules, 1 - missing / whole if whole else 1.0)


def _rank_for(shape: Sequence[int], rank: int, conv_rank: int) -> int:
    wide = len(shape) == 4 and tuple(shape[2:]) != (1, 1)
    return conv_rank if wide and conv_rank else rank


def _all_names(files: Sequence[Weighted]) -> list[str]:
    names = list(dict.fromkeys(name for file in files for name in file.modules))
    spellings = {("." in name) for name in names}
    if len(spellings) > 1:
        dotted = next(f.where for f in files if any("." in name for name in f.modules))
        raise UserError(f"{dotted}: names its modules as diffusers does, others as kohya does; give the base model too")
    return names


def _refuse(name: str, files: Sequence[Weighted], *, joinable_only: bool) -> None:
    for file in files:
        weights = file.modules.get(name)
        if weights is None:
            continue
        if weights.magnitude is not None:
            raise UserError(
                f"{file.where}: {name} is a DoRA, which cannot be added to another LoRA; merge it into a base"
            )
        if joinable_only and (weights.kind != "lora" or MID in weights.tensors):
            raise UserError(f"{file.where}: {name} is a {weights.kind}, which cannot be joined exactly; give a rank")


def _refuse_all(modules: Modules, where: str) -> None:
    for name in modules:
        _refuse(name, [Weighted(modules, 1.0, where)], joinable_only=True)
