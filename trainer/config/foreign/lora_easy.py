"""LoRA_Easy_Training_Scripts: sd-scripts' keys in tables of two levels, with the folders of images beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.config.foreign.outcome import Outcome, carried, missing, unneeded
from trainer.config.foreign.sd_scripts import reader
from trainer.config.foreign.translate import Source
from trainer.config.foreign.values import WORDS
from trainer.errors import UserError

WHAT = "a LoRA_Easy_Training_Scripts config"
_SUBSETS, _MODE = "subsets", "train_mode"
# Of the program itself: what it writes beside the run, and a word for ${replace} in paths.
_ITS_OWN = ("tag_occurrence", "tag_file_location", "save_toml", "save_toml_location", "easy_name")
_REPLACED = "${replace}"
_CLASSES = ("compass", "lpfadamw", "rmsprop")  # optimizers that it brings along

# Arguments of the network by which the program chooses its module.
_CHOOSING = {"network_args.algo": "lycoris.kohya", "network_args.unit": "networks.dylora"}


def is_one(content: Mapping[str, Any]) -> bool:
    """Whether a TOML is of this program: every table but the subsets holds `args` or `dataset_args`."""
    tables = [table for name, table in content.items() if name not in (_SUBSETS, _MODE)]
    return bool(tables) and all(isinstance(t, Mapping) and t and set(t) <= {"args", "dataset_args"} for t in tables)


def source(content: Mapping[str, Any], folder: Path) -> Source:
    """Raises UserError for what trains no LoRA of Stable Diffusion."""
    if "flux_args" in content:
        raise UserError("flux_args: there are SD 1.x, 2.x and SDXL here.")
    mode = content.get(_MODE, {}).get(_MODE, "lora") if isinstance(content.get(_MODE, {}), Mapping) else "lora"
    if mode != "lora":
        raise UserError(
            f"train_mode = {mode!r}: its textual inversion is not read; set [embeddings] (docs/textual-inversion.md)."
        )
    raw = dict(_keys(content))
    easy = str(raw.get("saving_args.args.easy_name") or "")
    given: dict[str, Any] = {}
    names: dict[str, tuple[str, ...]] = {}
    told: dict[str, Outcome] = {}
    for path, value in raw.items():
        outcome = _settled(path, value)
        if outcome is not None:
            told[path] = outcome
            continue
        name, value = _fed(path, value, easy)
        given[name], names[path] = value, (name, "network_module") if name in _CHOOSING else (name,)
    script = "sdxl_train_network.py" if given.pop("sdxl", False) else reader.LORA[0]
    given.setdefault("network_module", next((_CHOOSING[n] for n in _CHOOSING if n in given), "networks.lora"))
    images = _images(content)
    if images["datasets"]:
        given[reader.DATASET_FILE], names[_SUBSETS] = _SUBSETS, (reader.DATASET_FILE,)
    found = reader.source(given, folder, script=script, what=WHAT, images=images)
    return replace(found, names=names, told=told, raw=raw)


def _keys(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(path, value) of each key: general_args.args.seed, network_args.args.network_args.conv_dim."""
    for table, kinds in content.items():
        if table == _SUBSETS or not isinstance(kinds, Mapping):
            yield table, kinds
            continue
        for kind, keys in kinds.items():
            for name, value in keys.items() if isinstance(keys, Mapping) else ():
                if isinstance(value, Mapping):
                    yield from ((f"{table}.{kind}.{name}.{inner}", v) for inner, v in value.items())
                else:
                    yield f"{table}.{kind}.{name}", value
            if not isinstance(keys, Mapping):
                yield f"{table}.{kind}", keys


def _settled(path: str, value: Any) -> Outcome | None:
    """What becomes of a key that sd-scripts is not given as it is; None of any other."""
    table, _, name = path.rpartition(".")
    if path.startswith(_MODE) or name == "fa":
        return missing("LoRA-FA is not here") if name == "fa" and value else unneeded("a LoRA")
    if name in _ITS_OWN:
        return unneeded("of the program itself")
    if path != _SUBSETS and (not value or str(value).lower() == "false"):
        return unneeded("off, or 0, which is left out there")
    if ".dataset_args" in table:
        return carried({f"general.{name}": value})
    if name == "optimizer_type" and str(value).lower() in _CLASSES:
        return missing(f"{value} is a class of that program")
    return None


def _fed(path: str, value: Any, easy: str) -> tuple[str, Any]:
    """sd-scripts' key and value."""
    if path == _SUBSETS:
        return reader.DATASET_FILE, _SUBSETS
    inner = path.split(".args.", 1)[1]
    name = {"warmup_ratio": "lr_warmup_steps"}.get(inner, inner)
    if isinstance(value, list) and inner.startswith("network_args."):
        value = ",".join(map(str, value))
    if isinstance(value, str):
        value = WORDS.get(value.lower(), value) if value.lower() in ("true", "false") else value
    return name, value.replace(_REPLACED, easy) if isinstance(value, str) else value


def _images(content: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset file that the program writes: what is empty or off is left out."""
    general: dict[str, Any] = {}
    for table in content.values():
        keys = table.get("dataset_args") if isinstance(table, Mapping) else None
        general |= {k: v for k, v in keys.items() if v} if isinstance(keys, Mapping) else {}
    subsets = content.get(_SUBSETS)
    folders = [s for s in subsets if isinstance(s, Mapping)] if isinstance(subsets, list) else []
    tables = [{key: value for key, value in one.items() if value and key != "name"} for one in folders]
    return {"general": general, "datasets": [{"subsets": tables}] if tables else []}
