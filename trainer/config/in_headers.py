"""A run's settings in the header of the files that it makes, so that a file can be trained again as it was.

Kohya's ss_ keys have no names for most of what can be set here. Files are shared: of paths only the last name is told,
and nothing of where results and logs go or of what was drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePath, PureWindowsPath
from typing import Any

from trainer.config.keys import defaults, paths
from trainer.files.metadata import SETTINGS

_KEPT_BACK = ("run.output_dir", "data.cache_dir", "data.config", "lora.init_from", "save.comment", "samples", "logging")


def written(settings: Mapping[str, Any]) -> dict[str, str]:
    """The header's entry: what differs from the defaults, by dotted key. settings: as reading.to_dict gives them."""
    told = dict(_flat(settings))
    kept = {key: _without_folders(key, value) for key, value in told.items() if not key.startswith(_KEPT_BACK)}
    return {SETTINGS: json.dumps({k: v for k, v in kept.items() if v != defaults().get(k)}, ensure_ascii=False)}


def read(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The settings by dotted key; None for a file without them."""
    try:
        found = json.loads(metadata.get(SETTINGS, ""))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """By dotted key. A table of any names, such as optimizer.args, is one value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and not isinstance(defaults().get(f"{prefix}{key}"), Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _without_folders(key: str, value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return [{k: _without_folders(f"{key}[].{k}", v) for k, v in table.items()} for table in value]
    if key in paths() and isinstance(value, str):
        return PureWindowsPath(value).name if "\\" in value else PurePath(value).name
    return value
