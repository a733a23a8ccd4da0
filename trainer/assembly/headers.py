"""What the headers of a run's base and other files tell before torch is loaded, and what of the config they refuse."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from pathlib import Path

from trainer import registry
from trainer.config import paths
from trainer.config.schema.whole import BaseConfig
from trainer.data.sources.classes import class_names
from trainer.errors import UserError
from trainer.files import tensor_file
from trainer.protocols import BaseReader, Outline

NAMED = 12  # blocks that are listed


def of_base(config: BaseConfig) -> tuple[Outline | None, list[str]]:
    """What the base is, as far as its header tells, and why it is refused."""
    base, family = config.model.base, config.model.family
    if config.model.network:
        return _of_new(config)
    try:
        outline, sure = _outline(base)
    except UserError as error:
        return None, [p if p.startswith("model.") else f"model.base: {p}" for p in error.problems]
    if outline is None or not outline.family:
        return None, [not_trained(base, outline.what if outline else "")] if sure else []
    if family in registry.names("models") and family != outline.family:
        told = f"{paths.named(base)} is {outline.what}"
        return outline, [f"model.family: found {family!r}, but {told}; write {outline.family!r}, or 'auto'."]
    return outline, []


def _of_new(config: BaseConfig) -> tuple[Outline | None, list[str]]:
    readers = [r for r in map(_reader, registry.names("bases")) if config.model.family in r.families]
    try:
        classes = class_names(config.model.classes)
        return next((reader.of_new(config.model.network, classes) for reader in readers), None), []
    except UserError as error:
        return None, error.problems


def _reader(name: str) -> type[BaseReader]:
    found: type[BaseReader] = registry.find("bases", name)
    return found


def not_trained(base: str, what: str) -> str:
    """The line about a base that no family claims. what: it is, "" for what nobody knows."""
    what = f"it is {what}" if what else "it is none of the models that the families know"
    return (
        f"model.base: {paths.named(base)} cannot be trained: {what}. There are the families "
        f"{', '.join(registry.names('models'))}; expected a checkpoint in one file, a diffusers folder (with a "
        "model_index.json) or a hub id."
    )


def _outline(base: str) -> tuple[Outline | None, bool]:
    """By whoever knows the base; and whether nobody else could. Raises UserError for a damaged one."""
    path = Path(base)
    if not path.exists() or (path.is_file() and tensor_file.is_pickle(path)):
        return None, False  # a hub id, or a file of which only torch knows the names
    readers = [_reader(name) for name in registry.names("bases")]
    sure = {*registry.names("models")} <= {family for reader in readers for family in reader.families}
    told = [found for reader in readers if (found := reader.outline(base)) is not None]
    # One that a family trains, before one that some reader only knows.
    return max(told, key=lambda found: bool(found.family), default=None), sure


def of_other_files(config: BaseConfig) -> list[str]:
    """Of weight files besides the base: those that are cut off or none."""
    files = {
        "model.vae": config.model.vae,
        "model.text_encoder": config.model.text_encoder,
        "lora.init_from": config.lora.init_from,
    }
    return [line for key, path in files.items() if path and Path(path).is_file() for line in _unsound(key, Path(path))]


def _unsound(key: str, path: Path) -> list[str]:
    try:
        if not tensor_file.is_pickle(path):
            tensor_file.read_header(path)
    except UserError as error:
        return [f"{key}: {problem}" for problem in error.problems]
    return []


def of_blocks(config: BaseConfig, outline: Outline) -> Iterator[str]:
    """Blocks and layers that the config names and the base has not got."""
    asked = {"optimizer.rates": [*config.optimizer.rates], "optimizer.windows": [*config.optimizer.windows]}
    if config.training.method == "lora":
        asked["lora.ranks"] = [*config.lora.ranks]
        yield from _unknown_layers(config, outline)
    for key, blocks in asked.items():
        yield from (f"{key}.{block!r}: {_missing(block, outline)}" for block in blocks if not _has(outline, block))


def _unknown_layers(config: BaseConfig, outline: Outline) -> Iterator[str]:
    for part, names in outline.names.items():
        trains = config.text_encoder_trains if part in outline.text_parts else config.training.unet
        if trains and config.lora.layers and not any(word in name for word in config.lora.layers for name in names):
            blocks = _listed(sorted({name.split(".")[0] for name in names}))
            yield f"lora.layers: found {config.lora.layers}, but no layer of {part} is called so (there are {blocks})."


def _has(outline: Outline, block: str) -> bool:
    """Also where the names of the part are not known."""
    part, _, inside = block.partition(".")
    names = outline.names.get(part, ())
    return part in outline.parts and (
        not inside or not names or any(name == inside or name.startswith(f"{inside}.") for name in names)
    )


def _missing(block: str, outline: Outline) -> str:
    depth = block.count(".") + 1
    known = {".".join(f"{part}.{name}".split(".")[:depth]) for part, names in outline.names.items() for name in names}
    near = difflib.get_close_matches(block, known | {*outline.parts}, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    first = sorted({f"{part}.{name.split('.')[0]}" for part, names in outline.names.items() for name in names})
    return f"nothing in this base is called so (there are {_listed(first or outline.parts)}).{hint}"


def _listed(names: Collection[str]) -> str:
    return ", ".join([*names][:NAMED]) + (", ..." if len(names) > NAMED else "")
