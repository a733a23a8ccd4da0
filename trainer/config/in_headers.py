"""A run's settings in the header of the files that it makes, so that a file can be trained again as it was.

Kohya's ss_ keys have no names for most of what can be set here. Files are shared: of paths only the last name is told,
and nothing of where results and logs go or of what was drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import PureWindowsPath
from typing import Any

from trainer.config.keys import defaults, paths
from trainer.files.metadata import SETTINGS

# Where things go, what is drawn, and files whose content is told in full.
_KEPT_BACK = ("run.output_dir", "data.cache_dir", "samples.", "logging.", "data.config", "slider.prompts_file")


def written(settings: Mapping[str, Any]) -> dict[str, str]:
    """The header's entry: what differs from the defaults, by dotted key. settings: as reading.to_dict gives them."""
    told = dict(_flat(settings))
    kept = {key: _without_folders(key, value) for key, value in told.items() if not key.startswith(_KEPT_BACK)}
    return {SETTINGS: json.dumps({k: v for k, v in kept.items() if v != defaults().get(k)}, ensure_ascii=False)}


def read(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The settings by dotted key; None for a file without them, or with what no run can have written."""
    try:
        found = json.loads(metadata.get(SETTINGS, ""))
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and all(map(_is_key, found)) and _is_whole(found) else None


def _is_key(name: str) -> bool:
    return all(name.split(".")) and ("." in name or isinstance(defaults().get(name), list))


def _is_whole(value: Any) -> bool:
    """Without null, which no setting is."""
    if isinstance(value, Mapping):
        return all(map(_is_whole, value.values()))
    return all(map(_is_whole, value)) if isinstance(value, list) else value is not None


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
    if key not in paths() or not isinstance(value, str):
        return value
    place = PureWindowsPath(value)  # reads both kinds
    return place.name if place.root or place.drive else value  # whole paths; a hub id is none
