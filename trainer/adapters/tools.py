"""What can be done with LoRA files besides training: combine, resize, put into a base."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.adapters import low_rank
from trainer.adapters.naming import Modules, Weighted, joined, places, unified
from trainer.adapters.weights import changes, delta, is_finite, is_plain, kind_of, scale
from trainer.batch import UP, AdapterWeights
from trainer.errors import UserError
from trainer.protocols import Family


@dataclass(frozen=True)
class Approximated:
    modules: dict[str, AdapterWeights]
    kept: float  # share of the squared size of all changes together that the approximation has, 0 to 1


def concatenate(files: Sequence[Weighted]) -> dict[str, AdapterWeights]:
    """One LoRA that acts exactly as all together: ranks add up. Raises UserError for kinds that cannot be joined."""
    files = unified(files)
    found = {}
    for name in _all_names(files):
        _refuse(name, files, joinable_only=True)
        found[name] = joined([(f.modules[name], f.strength) for f in files if name in f.modules], name)
    return found


def combine(files: Sequence[Weighted], rank: int, conv_rank: int = 0) -> Approximated:
    """One LoRA of the given rank that is nearest to the sum of all; `conv_rank` 0 = the same for convolutions."""
    for file in files:
        _refuse_broken(file)
    files = unified(files)
    changes = {}
    for name in _all_names(files):
        _refuse(name, files, joinable_only=False)
        parts = [f.strength * delta(f.modules[name]) for f in files if name in f.modules]
        if len({part.squeeze().shape for part in parts}) > 1:
            raise UserError(
                f"{name}: the files are for different models, or LoHa and LoKr of convolutions are among them"
            )
        # A 1x1 convolution may be stored as a linear layer.
        changes[name] = torch.stack([part.reshape(parts[0].shape) for part in parts]).sum(0)
    return approximate(changes, rank, conv_rank)


def with_alpha(found: Approximated, alpha: float) -> Approximated:
    """The same changes, each module with this alpha."""
    changed = {
        name: AdapterWeights({**m.tensors, UP: m.up * (scale(m) * m.up.shape[1] / alpha)}, alpha)
        for name, m in found.modules.items()
    }
    return Approximated(changed, found.kept)


def resize(file: Weighted, rank: int, conv_rank: int = 0) -> Approximated:
    """The nearest LoRA of another rank; `conv_rank` 0 = the same for convolutions. Raises UserError but for LoRA."""
    _refuse_all(file.modules, file.where)
    _refuse_broken(file)
    (file,) = unified([file])
    modules = file.modules
    resized = {n: low_rank.truncate(m, _rank_for(delta_shape(m), rank, conv_rank)) for n, m in modules.items()}
    whole = sum(float(delta(m).square().sum()) for m in modules.values())
    missing = sum(float((delta(m) - delta(resized[n])).square().sum()) for n, m in modules.items())
    return Approximated(resized, 1 - missing / whole if whole else 1.0)


def with_dimensions(modules: Modules, ends: Sequence[str], dimensions: int) -> dict[str, AdapterWeights]:
    """The same changes; plain modules whose names end so as of linear layers (2) or of 1x1 convolutions (4)."""

    def shaped(tensor: Tensor) -> Tensor:
        return tensor.reshape(*tensor.shape[:2], *(1,) * (dimensions - 2))

    return {
        name: replace(m, tensors={leaf: shaped(t) for leaf, t in m.tensors.items()})
        if name.endswith(tuple(ends)) and is_plain(m) else m
        for name, m in modules.items()
    }  # fmt: skip


@dataclass(frozen=True)
class Placed:
    """What became of a LoRA that was put into a base."""

    layers: int  # how many changed
    left_out: tuple[str, ...]  # modules that the base lacks, or of another shape


def put_into(family: Family, modules: Modules, strength: float, where: str, *, partial: bool = False) -> Placed:
    """Adds a LoRA to the base's own weights, for good. Entries for one layer under several names add up.

    partial: leaves out what does not fit; otherwise raises UserError for it, and changes nothing.
    """
    changed, misfits = _changed(family, modules, strength)
    if misfits and not partial:
        raise UserError(_told(misfits, modules, where))
    if not changed:
        raise UserError(f"{where}: no module of it fits this base; is it for another model?")
    with torch.no_grad():
        for (part, target), tensors in changed.items():
            for name, tensor in tensors.items():
                family.parts[part].get_parameter(f"{target}.{name}").copy_(tensor)
    return Placed(len(changed), tuple(misfits))


def _changed(
    family: Family, modules: Modules, strength: float
) -> tuple[dict[tuple[str, str], dict[str, Tensor]], dict[str, str]]:
    """The new parameters of every layer that a LoRA changes, and why other modules of it do not fit."""
    known = places(family)
    misfits = {name: "the base has no such layer" for name in modules if name not in known}
    changed: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, weights in modules.items():
        if name in misfits:
            continue
        part, target = known[name]
        own = dict(family.parts[part].get_submodule(target).named_parameters(recurse=False))
        try:
            found = changes(weights, own)
        except (RuntimeError, IndexError, KeyError):
            misfits[name] = f"does not fit the base's layer {list(own['weight'].shape)}"
            continue
        so_far = changed.setdefault((part, target), {})
        for parameter, change in found.items():
            start = so_far.get(parameter, own[parameter].detach().float())
            so_far[parameter] = start + strength * change
    return changed, misfits


def _told(misfits: Mapping[str, str], modules: Modules, where: str) -> list[str]:
    shown = [f"{name}: {why}" for name, why in list(misfits.items())[:10]]
    more = [f"and {len(misfits) - 10} more"] if len(misfits) > 10 else []
    head = f"{where}: {len(misfits)} of {len(modules)} modules do not fit this base; is it for another model? --partial"
    return [f"{head} leaves them out", *shown, *more]


@contextmanager
def applied(
    family: Family, modules: Modules, strength: float, where: str, *, partial: bool = False
) -> Iterator[Placed]:
    """Inside, a LoRA is in the base's weights; afterwards they are what they were, bit for bit. Raises UserError."""
    before = {
        (part, target, name): parameter.detach().clone()
        for part, target in {place for alias, place in places(family).items() if alias in modules}
        for name, parameter in family.parts[part].get_submodule(target).named_parameters(recurse=False)
    }
    placed = put_into(family, modules, strength, where, partial=partial)
    try:
        yield placed
    finally:
        with torch.no_grad():
            for (part, target, name), tensor in before.items():
                family.parts[part].get_parameter(f"{target}.{name}").copy_(tensor)


def delta_shape(weights: AdapterWeights) -> tuple[int, ...]:
    return (weights.up.shape[0], *weights.down.shape[1:])


def approximate(changes: Mapping[str, Tensor], rank: int, conv_rank: int) -> Approximated:
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
        raise UserError(
            f"{dotted}: names its modules as diffusers does, others as kohya does; put them into the base model instead"
        )
    return names


def _refuse(name: str, files: Sequence[Weighted], *, joinable_only: bool) -> None:
    """Raises UserError for what a LoRA cannot hold, or with `joinable_only` for what is none."""
    for file in files:
        weights = file.modules.get(name)
        if weights is None:
            continue
        kind = kind_of(weights)
        if kind.needs_base(weights):
            raise UserError(
                f"{file.where}: {name} is a {kind.title}, which cannot be added to another LoRA; merge it into a base"
            )
        if kind.bias_change(weights) is not None or all(t.ndim < 2 for t in weights.tensors.values()):
            raise UserError(
                f"{file.where}: {name} changes a bias or a normalisation, which no LoRA can; merge it into a base"
            )
        if joinable_only and not is_plain(weights):
            raise UserError(
                f"{file.where}: {name} is a {_described(weights)}, which cannot be joined exactly; give a rank"
            )


def _refuse_broken(file: Weighted) -> None:
    """Raises UserError for numbers that cannot be approximated."""
    broken = [name for name, weights in file.modules.items() if not is_finite(weights)]
    if broken or not math.isfinite(file.strength):
        what = f"{len(broken)} modules hold NaN or infinity, such as {broken[0]}" if broken else "its strength is none"
        raise UserError(f"{file.where}: {what}")


def _described(weights: AdapterWeights) -> str:
    kind = kind_of(weights)
    return f"{kind.title} with more than two factors" if kind.plain else kind.title


def _refuse_all(modules: Modules, where: str) -> None:
    for name, weights in modules.items():
        if not is_plain(weights):
            raise UserError(f"{where}: {name} is a {_described(weights)}; only plain LoRAs can be resized")
