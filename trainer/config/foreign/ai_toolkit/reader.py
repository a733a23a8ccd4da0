"""Reads a job of ai-toolkit, YAML or JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config.foreign.ai_toolkit.table import KEYS
from trainer.config.foreign.translate import Source
from trainer.config.foreign.values import Context
from trainer.errors import UserError

PROGRAM = "ai-toolkit"
_FAMILIES = {"sd1": "sd", "sd15": "sd", "sd2": "sd", "sdxl": "sdxl", "": ""}
_OTHERS = ("is_flux", "is_v3", "is_pixart", "is_pixart_sigma", "is_auraflow", "is_lumina2", "is_ssd", "is_vega")
_NAME = re.compile(r"\[name\]")


def is_one(content: Mapping[str, Any]) -> bool:
    config = content.get("config")
    return "job" in content and isinstance(config, Mapping) and "process" in config


def source(content: Mapping[str, Any], folder: Path) -> Source:
    """Raises UserError for a job that trains something else."""
    config = content["config"]
    processes = config["process"] if isinstance(config["process"], list) else [config["process"]]
    if len(processes) != 1 or not isinstance(processes[0], Mapping):
        raise UserError(f"config.process: found {len(processes)} processes, expected one that trains.")
    process: Mapping[str, Any] = processes[0]
    _refuse_others(process)
    given = {"job": content["job"], **_flat({k: v for k, v in config.items() if k != "process"})}
    given |= _flat({"process.name" if k == "name" else k: v for k, v in process.items()})
    given |= _flat({"meta": content["meta"]}) if "meta" in content else {}
    name = str(config.get("name", ""))
    given = {key: _NAME.sub(name, value) if isinstance(value, str) else value for key, value in given.items()}
    family = _family(process.get("model") or {})
    tables = {"network": process.get("network")}
    implied = {} if process.get("network") or process.get("embedding") else {"training.method": "full"}
    context = Context(folder, family=family, tables=tables)
    return Source(PROGRAM, "an ai-toolkit job", KEYS, given, context, implied=implied)


def _refuse_others(process: Mapping[str, Any]) -> None:
    if "train" not in process or "model" not in process:
        raise UserError(f"config.process[0].type = {process.get('type')}: it does not train a model.")
    model = process["model"] or {}
    others = [name for name in _OTHERS if model.get(name)]
    arch = str(model.get("arch") or "")
    if others or arch.partition(":")[0] not in _FAMILIES:
        raise UserError(f"model.{others[0] if others else f'arch = {arch}'}: there are SD 1.x, 2.x and SDXL here.")


def _family(model: Mapping[str, Any]) -> str:
    if model.get("is_xl"):
        return "sdxl"
    return _FAMILIES[str(model.get("arch") or "").partition(":")[0]]


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables in tables as dotted names, lists of tables with their places; empty ones stay."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        listed = isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value)
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{name}.")
        elif listed and name != "sample.samples":
            found |= {k: v for place, one in enumerate(value) for k, v in _flat(one, f"{name}.{place}.").items()}
        else:
            found[name] = value
    return found
