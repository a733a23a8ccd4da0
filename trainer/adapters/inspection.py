"""Tells what a weight file or a diffusers folder is: family, prediction, rank, metadata, and what is broken."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trainer import registry
from trainer.adapters import embeddings, lora_file
from trainer.adapters import names as lora_names
from trainer.adapters.naming import Weighted, doubled
from trainer.adapters.weights import is_finite, is_zero, name_of, rank
from trainer.errors import UserError
from trainer.files.tensor_file import PICKLE_SUFFIXES, Header, is_pickle, read_header, read_tensors

Kind = Literal["lora", "embedding", "checkpoint", "diffusers folder", "tensors"]


@dataclass(frozen=True)
class Inspection:
    kind: Kind
    what: str  # in words
    family: str | None = None  # plugin's name, or None where no family knows it
    base_version: str | None = None  # kohya's name of the base a LoRA is for
    prediction: str | None = None  # objective's name; None = can't be told without running the model
    method: str | None = None  # the kinds of its adapters, as lora.method names them
    rank: int | None = None  # the most frequent one
    alpha: float | None = None  # of the modules that have that rank
    ranks: dict[str, int] = field(default_factory=dict)  # "rank 16, alpha 8" -> number of modules
    modules: int = 0  # adapted layers of a LoRA, tensors of anything else
    parameters: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)  # name -> number of tensors
    metadata: dict[str, str] = field(default_factory=dict)
    not_finite: tuple[str, ...] = ()  # what holds NaN or infinity
    zero: tuple[str, ...] = ()  # modules of a LoRA that change nothing
    embeddings: tuple[str, ...] = ()  # new words: "ohwx: 2 vectors of 768 numbers for SD 1.x"
    doubled: tuple[str, ...] = ()  # "one = other": two names of one layer, of which some programs apply the last only

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def inspect(path: Path) -> Inspection:
    """Reads every tensor once. Raises UserError for what is missing, damaged or no weights at all."""
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file or folder")
    header = read_header(path)
    unread = next((what for name in header.shapes if (what := lora_names.unread(name))), None)
    if unread:
        return _of_unread(header, unread)
    if embeddings.holds(header.shapes):
        return _of_embedding(path, header)
    return _of_lora(path, header) if _names_adapters(header) else _of_checkpoint(path, header)


def is_lora(path: Path) -> bool:
    """Whether a file holds adapters, by the names of its tensors. Raises UserError when it cannot be read."""
    return _names_adapters(read_header(path))


def _names_adapters(header: Header) -> bool:
    return any(
        lora_names.unread(name) or lora_names.split(name) not in (None, (name.rpartition(".")[0], "alpha"))
        for name in header.shapes
    )


def not_finite(path: Path) -> list[str]:
    """Names of the tensors of a file that hold NaN or infinity. Raises UserError when it cannot be read."""
    return list(_broken(path, read_header(path)))


def _of_lora(path: Path, header: Header) -> Inspection:
    file = lora_file.read(path)
    kinds = Counter(str(name_of(m.tensors)) for m in file.modules.values())
    sizes = Counter((rank(m), m.alpha) for m in file.modules.values())
    (most, alpha), _ = sizes.most_common(1)[0]
    family, version = _lora_family(header)
    stated = file.metadata.get("modelspec.prediction_type")
    return Inspection(
        kind="lora",
        what=f"a {'/'.join(kinds)} of {len(file.modules)} modules" + (f" for {version}" if version else ""),
        family=family,
        base_version=version,
        prediction=_objective(stated),
        method="/".join(kinds),
        rank=most,
        alpha=alpha,
        ranks={f"rank {r}, alpha {a:g}": count for (r, a), count in sizes.most_common()},
        modules=len(file.modules),
        **_counts(header),
        metadata=file.metadata,
        not_finite=(
            *(name for name, m in file.modules.items() if not is_finite(m)),
            *embeddings.broken(file.embeddings),
        ),
        zero=tuple(name for name, m in file.modules.items() if is_zero(m)),
        embeddings=tuple(embeddings.told(name, one) for name, one in file.embeddings.items()),
        doubled=tuple(doubled(Weighted(file.modules, 1.0, str(path), file.metadata))),
    )


def _of_embedding(path: Path, header: Header) -> Inspection:
    found = {path.stem: embeddings.read(path)}
    (told,) = [embeddings.told(name, one) for name, one in found.items()]
    return Inspection(
        kind="embedding",
        what="an embedding (textual inversion)",
        family=_lora_family(header)[0],
        base_version=header.metadata.get("ss_base_model_version"),
        modules=len(header.shapes),
        **_counts(header),
        metadata=header.metadata,
        embeddings=(told,),
        not_finite=tuple(embeddings.broken(found)),
    )


def _of_unread(header: Header, what: str) -> Inspection:
    family, version = _lora_family(header)
    stated = header.metadata.get("modelspec.prediction_type")
    return Inspection(
        kind="lora",
        what=f"{what}; no command reads it",
        family=family,
        base_version=version,
        prediction=_objective(stated),
        **_counts(header),
        metadata=header.metadata,
    )


def _objective(stated: str | None) -> str | None:
    """The objective's own name for what the metadata says, which is an alias or a name that none of them knows."""
    try:
        return None if stated is None else registry.canonical("objectives", stated)
    except UserError:
        return stated


def _lora_family(header: Header) -> tuple[str | None, str | None]:
    for name in registry.names("models"):
        version = registry.find("models", name).recognises_lora(header.shapes, header.metadata)
        if version:
            return name, str(version)
    return None, header.metadata.get("ss_base_model_version")


def _of_checkpoint(path: Path, header: Header) -> Inspection:
    family, what, prediction = _base(str(path))
    return Inspection(
        kind="checkpoint" if family else "tensors",
        what=what or "tensors of no known model",
        family=family,
        prediction=prediction,
        modules=len(header.shapes),
        **_counts(header),
        metadata=header.metadata,
        not_finite=tuple(_broken(path, header)),
    )


def _of_folder(path: Path) -> Inspection:
    family, what, prediction = _base(str(path))
    if what is None:
        raise UserError(f"{path}: no diffusers folder (there is no model_index.json in it)")
    files = sorted(p for p in path.rglob("*") if p.suffix in (".safetensors", *PICKLE_SUFFIXES))
    headers = {file: read_header(file) for file in files}
    counts = [_counts(header) for header in headers.values()]
    dtypes: Counter[str] = Counter()
    for count in counts:
        dtypes.update(count["dtypes"])
    return Inspection(
        kind="diffusers folder",
        what=what,
        family=family,
        prediction=prediction,
        modules=sum(len(header.shapes) for header in headers.values()),
        parameters=sum(count["parameters"] for count in counts),
        dtypes=dict(dtypes),
        not_finite=tuple(
            f"{file.relative_to(path).as_posix()}: {name}" for file, h in headers.items() for name in _broken(file, h)
        ),
    )


def _base(base: str) -> tuple[str | None, str | None, str | None]:
    """(family, in words, prediction) of a base."""
    what = None
    for name in registry.names("models"):
        plugin = registry.find("models", name)
        recognised = plugin.recognises(base)
        if recognised:
            return name, recognised, plugin.predicts(base)
        what = what or plugin.describes(base)
    return None, what, None


def _counts(header: Header) -> dict[str, Any]:
    sizes = [math.prod(shape) for shape in header.shapes.values()]
    return {"parameters": sum(sizes), "dtypes": dict(Counter(header.dtypes.values()).most_common())}


def _broken(path: Path, header: Header) -> Iterator[str]:
    """Names of tensors that hold NaN or infinity; one tensor at a time is in memory (pickles: all)."""
    if is_pickle(path):
        yield from (name for name, tensor in read_tensors(path).items() if not _sound(tensor))
        return
    for name in header.shapes:
        tensors = read_tensors(path, lambda candidate, wanted=name: candidate == wanted)  # type: ignore[misc]
        if not _sound(tensors[name]):
            yield name


def _sound(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.float()).all())
