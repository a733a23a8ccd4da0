"""Takes pairs of prompts from a file of kohya's or LECO's form ([slider] prompts_file = "prompts.toml")."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trainer.config.paths import absolute, problem
from trainer.config.schema.slider import PromptPair, SliderTarget
from trainer.files import ordinary

KEY = "slider.prompts_file"
TABLES = ("prompts", "targets")
_NEUTRALS = ("neutral", "neutrals", "neutral_prompt_file", "prompt_file")
_SHARED = {*PromptPair.model_fields, *SliderTarget.model_fields, *_NEUTRALS, "resolutions"}


class _WrongError(Exception):
    """What is wrong with the file, in words."""


def included(values: dict[str, Any], directory: Path) -> tuple[dict[str, Any], str, list[str]]:
    """The values of a run's file as if its prompts were pasted in, that file's name, and problems as "key: ...".

    `values`: as parsed, before validation; `directory`: what the name is relative to. Without such a file the values
    come back as they are, and "".
    """
    slider = values.get("slider")
    name = slider.get("prompts_file") if isinstance(slider, dict) else None
    if not isinstance(slider, dict) or not isinstance(name, str) or not name:
        return values, "", []
    if missing := problem(KEY, absolute(name, directory), "file"):
        return values, "", [missing]
    path = directory / Path(name).expanduser()
    try:
        tables = _tables(_content(path), path.parent)
    except _WrongError as wrong:
        return values, name, [f"{KEY}: {name!r} {wrong} ({path})."]
    problems = [
        f"slider.{table}: stands in this file and in {KEY} = {name!r}; keep one of them."
        for table in TABLES
        if table in slider and table in tables
    ]
    rest = {key: value for key, value in slider.items() if key != "prompts_file"}
    return {**values, "slider": tables | rest}, name, problems


def _content(path: Path) -> Any:
    try:
        text = ordinary.text(path)
    except OSError as error:
        raise _WrongError(f"cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise _WrongError("is not UTF-8") from None
    try:
        if path.suffix.lower() in (".yaml", ".yml"):
            return yaml.safe_load(text)
        return json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        told = " ".join(str(error).split())
        raise _WrongError(f"is not valid: {told}") from None


def _tables(content: Any, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """slider.prompts and slider.targets as our files have them. Their values are looked at by who validates them."""
    if isinstance(content, list):
        content = {"prompts": content}
    if not isinstance(content, dict):
        raise _WrongError("must hold a list of prompts, or tables")
    if isinstance(content.get("slider"), dict):
        content = content["slider"]
    if "prompts" in content:
        entries = content["prompts"]
    elif "targets" in content:
        entries = content["targets"]
    elif "target" in content or "target_class" in content:
        entries = [content]
    else:
        raise _WrongError("holds neither [[prompts]] nor [[targets]]")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _WrongError("must hold a list of tables of prompts")
    above = {k: v for k, v in content.items() if k not in TABLES} if entries != [content] else {}
    if strange := sorted(map(str, above.keys() - _SHARED)):
        raise _WrongError(f"holds {strange[0]!r}, which is no setting of prompts")
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        if "target_class" in entry:
            found.setdefault("targets", []).extend(_targets(entry, above, folder))
        else:
            found.setdefault("prompts", []).append(_pair(entry, above))
    if not found:
        raise _WrongError("holds no prompts")
    return found


def _pair(entry: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    return _turned({k: v for k, v in above.items() if k in PromptPair.model_fields} | dict(entry))


def _targets(entry: Mapping[str, Any], above: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """One for each of its resolutions."""
    neutrals = _neutrals(entry, folder) or _neutrals(above, folder)
    known = {k: v for k, v in above.items() if k in SliderTarget.model_fields or k == "resolutions"}
    whole = known | {k: v for k, v in entry.items() if k not in _NEUTRALS} | {"neutrals": neutrals}
    sizes = whole.pop("resolutions", None)
    return [_turned(whole | {"resolution": size}) for size in sizes] if isinstance(sizes, list) else [_turned(whole)]


def _neutrals(entry: Mapping[str, Any], folder: Path) -> list[Any]:
    found = [entry["neutral"] or ""] if "neutral" in entry else []
    if isinstance(entry.get("neutrals"), list):
        found = entry["neutrals"]
    for key in ("neutral_prompt_file", "prompt_file"):
        if key in entry:
            found = _lines(folder / str(entry[key]), key)
    return found


def _lines(path: Path, key: str) -> list[str]:
    try:
        lines = ordinary.text(path).splitlines()
    except (OSError, ValueError) as error:
        raise _WrongError(f"names {key} = {path.name!r}, which cannot be read: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def _turned(entry: dict[str, Any]) -> dict[str, Any]:
    """With a size as our files have it: those files write the height first."""
    size = entry.get("resolution")
    turned = isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2
    return entry | ({"resolution": [size[1], size[0]]} if turned and size is not None else {})
