"""Takes the dataset tables of a run from a file of kohya's form ([data] config = "dataset.toml")."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from trainer.config.paths import absolute, problem
from trainer.config.schema.base import extra
from trainer.config.schema.data import SubsetSettings
from trainer.files import ordinary

TABLES = ("general", "datasets")


def included(values: dict[str, Any], directory: Path) -> tuple[dict[str, Any], str, list[str]]:
    """The values of a run's file as if its dataset file were pasted in, that file's name, and problems as "key: ...".

    `values`: as parsed, before validation; `directory`: what `data.config` is relative to. Paths in the dataset file
    are relative to that file and come back absolute. Without `data.config` the values come back as they are, and "".
    """
    data = values.get("data")
    name = data.get("config") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(name, str) or not name:
        return values, "", []
    path = directory / Path(name).expanduser()
    if missing := problem("data.config", absolute(name, directory), "file"):
        return values, "", [missing]
    content, problems = _read(path, name)
    problems += [
        f"{table}: stands in this file and in data.config = {name!r}; keep one of them."
        for table in TABLES
        if table in values and table in content
    ]
    problems += [
        f"data.config: {name!r} holds {key!r}, but a dataset file has only [general] and [[datasets]]."
        for key in content
        if key not in TABLES
    ]
    tables = {key: content[key] for key in TABLES if key in content}
    _make_absolute(tables.get("datasets"), path.resolve().parent)
    rest = {key: value for key, value in data.items() if key != "config"}
    return {**tables, **values, "data": rest}, name, problems


def _read(path: Path, name: str) -> tuple[dict[str, Any], list[str]]:
    """The content of a TOML or JSON file, or what is wrong with it."""
    try:
        text = ordinary.content(path).decode("utf-8-sig")
        content = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        return {}, [f"data.config: {name!r} cannot be read: {error.strerror or error} ({path})."]
    except UnicodeDecodeError:
        return {}, [f"data.config: {name!r} is not UTF-8 ({path})."]
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, RecursionError) as error:
        return {}, [f"data.config: {name!r} is not valid: {error} ({path})."]
    if not isinstance(content, dict):
        return {}, [f"data.config: {name!r} must hold tables ({path})."]
    return content, []


def _make_absolute(datasets: Any, directory: Path) -> None:
    """Only where the shape is right: what is wrong is reported by the validation that follows."""
    keys = [key for key, field in SubsetSettings.model_fields.items() if extra(field).get("path")]
    for dataset in datasets if isinstance(datasets, list) else []:
        subsets = dataset.get("subsets") if isinstance(dataset, dict) else None
        for subset in subsets if isinstance(subsets, list) else []:
            for key in keys:
                if isinstance(subset, dict) and isinstance(subset.get(key), str) and subset[key]:
                    subset[key] = str(directory / Path(subset[key]).expanduser())
