"""A LoRA file that a run goes on from: which adapters it gives, and what of the file waits beside those that train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from trainer.adapters import header, lora_file, naming
from trainer.adapters.lora_file import LoraFile
from trainer.adapters.weights import changes, kind_of, kinds, name_of, rank
from trainer.batch import UP, AdapterWeights
from trainer.errors import UserError
from trainer.protocols import Family


@dataclass(frozen=True)
class WarmStart:
    """By kohya's names."""

    trained: Mapping[str, AdapterWeights]
    waiting: Mapping[str, AdapterWeights]  # acts, does not train, and is saved as it is
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """What a run asks of the file."""

    parts: Collection[str]  # those that train
    method: str
    alphas: tuple[float, float]  # those to have for those that the file has, where they differ: linear, 3x3
    freeze: bool  # whether what does not train acts; else it is left out


def told(file: LoraFile) -> dict[str, Any]:
    """The settings of [lora] that a file's adapters have, the most frequent ones where they differ."""
    usable = [m for m in file.modules.values() if _trains(m)]
    if not usable:
        return {}
    (method, _), *_ = Counter(str(name_of(m.tensors)) for m in usable).most_common(1)
    shaped = all(UP in m.tensors for m in usable)  # others do not show what belongs to a convolution
    found: dict[str, Any] = {"method": method} | ({"conv_rank": 0} if shaped else {})
    for wide, names in ((False, ("rank", "alpha")), (True, ("conv_rank", "conv_alpha"))):
        sizes = Counter((rank(m), m.alpha) for m in usable if header.is_wide(m) is wide and rank(m))
        if sizes and (shaped or not wide):
            found |= zip(names, sizes.most_common(1)[0][0], strict=True)
    return found


def begin(family: Family, path: Path, file: LoraFile, wanted: Wanted) -> WarmStart:
    """Raises UserError for what is not for this base, or where nothing in the file would train."""
    modules = naming.canonical(family, file.modules, str(path))
    owners = {family.adapter_key(part, target): (part, target) for part, target in naming.places(family).values()}
    _refuse_strangers(family, path, file, modules, owners)
    trained = {
        name: weights
        for name, weights in modules.items()
        if owners[name][0] in wanted.parts and _trains(weights) and name_of(weights.tensors) == wanted.method
    }
    resting = {name: weights for name, weights in modules.items() if name not in trained}
    if not trained:
        raise UserError(_nothing(path, modules, owners, wanted))
    notes = _notes(path, resting, owners, wanted)
    absent = [part for part in wanted.parts if not any(owners[name][0] == part for name in trained)]
    if absent:
        notes.append(f"lora.init_from: {path} has nothing for {', '.join(absent)}, which begins anew")
    begun = {name: _with_alpha(weights, wanted.alphas[header.is_wide(weights)]) for name, weights in trained.items()}
    return WarmStart(begun, resting if wanted.freeze else {}, tuple(notes))


def _trains(weights: AdapterWeights) -> bool:
    """Whether a layer can get an adapter that goes on from this: of a kind that trains, without what stands beside."""
    kind = kind_of(weights)
    return kind.trains and weights.tensors.keys() <= {*kind.trainable}


def _with_alpha(weights: AdapterWeights, ratio: float) -> AdapterWeights:
    """The same change with alpha times `ratio`; the factor that new adapters have at zero takes what is left."""
    kind = kind_of(weights)
    if ratio == 1 or not rank(weights):
        return weights
    factor = next(name for name in kind.zero if name in weights.tensors)
    tensors = {**weights.tensors, factor: weights.tensors[factor].float() / ratio}
    return replace(weights, tensors=tensors, alpha=weights.alpha * ratio)


def _refuse_strangers(
    family: Family,
    path: Path,
    file: LoraFile,
    modules: Mapping[str, AdapterWeights],
    owners: Mapping[str, tuple[str, str]],
) -> None:
    strange = [f"{name}: the base has no such layer" for name in modules if name not in owners]
    for name, weights in modules.items():
        if name in owners and (what := _misfit(family.parts[owners[name][0]], owners[name][1], weights)):
            strange.append(f"{name}: {what}")
    if strange:
        made_for = file.metadata.get("ss_base_model_version")
        version = f"; it was made for {made_for}, this base is {family.base_version}" if made_for else ""
        raise UserError(
            [f"lora.init_from: {path}: {len(strange)} of {len(modules)} modules do not fit the base{version}",
             *strange[:5]]
        )  # fmt: skip


def _misfit(root: nn.Module, target: str, weights: AdapterWeights) -> str:
    """Why a module that could train does not fit its layer, told by shapes; others are tried when they are put in."""
    own = {name: p.to("meta") for name, p in root.get_submodule(target).named_parameters(recurse=False)}
    try:
        if _trains(weights):
            changes(weights, own)
    except (RuntimeError, IndexError, KeyError):
        return f"does not fit the base's layer {list(own['weight'].shape)}"
    return ""


def _nothing(
    path: Path,
    modules: Mapping[str, AdapterWeights],
    owners: Mapping[str, tuple[str, str]],
    wanted: Wanted,
) -> str:
    here = [weights for name, weights in modules.items() if owners[name][0] in wanted.parts]
    if not here:
        parts = sorted({owners[name][0] for name in modules})
        return (
            f"lora.init_from: {path} adapts {', '.join(parts)} only, and this run trains {', '.join(wanted.parts)}; "
            "train that too (training.unet, training.text_encoder), or leave lora.init_from out"
        )
    found = Counter(kind_of(weights).title for weights in here).most_common(1)[0][0]
    if any(_trains(weights) for weights in here):
        return (
            f"lora.init_from: the modules of {path} are {found}, this run's are {kinds()[wanted.method].title}; leave "
            "lora.method out to take the file's"
        )
    return (
        f"lora.init_from: {path}: nothing in it can be trained on (it is a {found}); put it into the base (merge BASE "
        f"{path.name} -o NEW) and train from that"
    )


def _notes(
    path: Path, resting: Mapping[str, AdapterWeights], owners: Mapping[str, tuple[str, str]], wanted: Wanted
) -> list[str]:
    notes = []
    if resting:
        counts = Counter(
            owners[name][0] if owners[name][0] not in wanted.parts else f"{kind_of(m).title} in {owners[name][0]}"
            for name, m in resting.items()
        )
        what = ", ".join(f"{count} of {part}" for part, count in counts.items())
        does = "act unchanged and are saved with the result" if wanted.freeze else "are left out"
        setting = "freeze" if wanted.freeze else "leave_out"
        notes.append(
            f"lora.init_from: modules of {path.name} that do not train here ({what}) {does} (lora.init_untrained = "
            f"'{setting}')"
        )
    if any(ratio != 1 for ratio in wanted.alphas):
        notes.append(f"lora.init_from: the modules of {path.name} get the alpha of this config; their change stays")
    return notes


def read(path: Path) -> LoraFile:
    """Raises UserError."""
    try:
        return lora_file.read(path)
    except UserError as error:
        raise UserError(f"lora.init_from: {problem}" for problem in error.problems) from error
