"""Merges the overlays of a preset: for every key the last one counts, and comments come along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import Comment, Table

from trainer.config.keys import keys as schema_keys

FOLDER = Path(__file__).parent
ABOUT = "about"  # the table of an overlay that is no section: texts for people
# Where an overlay's section stands in the config; the others have their own name.
PLACES = {"datasets": "[[datasets]]", "subsets": "[[datasets.subsets]]"}
KEYS = {"datasets": "datasets[]", "subsets": "datasets[].subsets[]"}
WIDTH = 37  # of the column before the comments


@dataclass(frozen=True)
class Line:
    """A key's value as TOML, with the comment behind it; without a value, a comment that stands for itself."""

    value: str
    comment: str


Section = dict[str, Line]
Sections = dict[str, Section]


def read(file: Path) -> dict[str, Any]:
    """The tables of an overlay, comments kept."""
    return dict(tomlkit.parse(file.read_text(encoding="utf-8")))


def sections(tables: Mapping[str, Any]) -> Sections:
    """What the plain tables of an overlay say; those that hold tables again are for certain combinations only."""
    plain = {name: t for name, t in tables.items() if name != ABOUT and not _is_condition(t)}
    return {name: _lines(table) for name, table in plain.items()}


def _is_condition(table: Any) -> bool:
    return any(isinstance(inner, Table) for inner in table.values())


def _lines(table: Table) -> Section:
    found: Section = {}
    for key, item in table.value.body:
        if key is not None:
            found[key.key] = Line(item.as_string(), item.trivia.comment)
        elif isinstance(item, Comment):
            found[item.trivia.comment] = Line("", item.trivia.comment)
    return found


def merged(overlays: list[Sections]) -> Sections:
    """The first overlay has all sections, in the order in which they are written."""
    found: Sections = {name: {} for name in overlays[0]}
    for overlay in overlays:
        for name, section in overlay.items():
            found[name] |= section
    return found


def rendered(found: Sections, header: list[str]) -> str:
    """The config as TOML, keys in the schema's order."""
    parts = ["".join(f"# {line}\n" for line in header)]
    for name, section in found.items():
        if section:
            body = "".join(
                _rendered(key, line) for key, line in sorted(section.items(), key=lambda i: _rank(name, i[0]))
            )
            parts.append(f"{PLACES.get(name, f'[{name}]')}\n{body}")
    return "\n".join(parts)


def _rendered(key: str, line: Line) -> str:
    if not line.value:
        return f"{line.comment}\n"
    text = f"{key} = {line.value}"
    return f"{text:<{WIDTH}} {line.comment}\n" if line.comment else f"{text}\n"


def _rank(section: str, key: str) -> int:
    return _order().get(f"{KEYS.get(section, section)}.{key}", -1)


@cache
def _order() -> dict[str, int]:
    return {path: place for place, (path, _) in enumerate(schema_keys())}
