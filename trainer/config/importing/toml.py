"""Writes imported settings as TOML, each line with the key that it comes from behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tomlkit

from trainer.config.foreign.translate import Setting, Translation
from trainer.config.importing import report
from trainer.config.importing.settings import DATASETS, LEFT, left_to_fill_in
from trainer.config.keys import keys as schema_keys
from trainer.config.schema.whole import Config


def document(settings: Mapping[str, Setting], translation: Translation, file: str) -> str:
    """The whole text. file: the name of the other program's."""
    parts = ["\n".join(f"# {line}".rstrip() for line in _head(settings, translation, file))]
    for section in Config.model_fields:
        mine = {key: s for key, s in settings.items() if key.partition(".")[0] == section}
        parts += _tables({key: s for key, s in mine.items() if key not in DATASETS}, translation)
        for key in mine.keys() & set(DATASETS):
            parts += _datasets(key, mine[key], translation)
    return "\n\n".join(parts) + "\n"


def _head(settings: Mapping[str, Setting], translation: Translation, file: str) -> list[str]:
    left = left_to_fill_in(settings, translation)
    fill_in = [f"To fill in, since it does not say them in full: {', '.join(left)}."] if left else []
    return [f"Imported from {file}: {translation.source.what}.", *fill_in, "", *report.lines(translation)]


def _tables(settings: Mapping[str, Setting], translation: Translation) -> Iterator[str]:
    """[optimizer], then the tables inside it."""
    order = {key: place for place, (key, _) in enumerate(schema_keys())}
    tables: dict[str, list[str]] = {}
    for key in sorted(settings, key=lambda key: order.get(key, len(order))):
        section, name, *inner = key.split(".", 2)
        table = f"{section}.{name}" if inner else section
        line = f"{_key(inner[0] if inner else name)} = {_value(settings[key].value)}"
        unsure = " (to fill in: not known in full)" if key in translation.source.unsure else ""
        tables.setdefault(table, []).append(f"{line}  # {_from(settings[key], translation)}{unsure}")
    yield from (f"[{table}]\n" + "\n".join(lines) for table, lines in sorted(tables.items(), key=lambda t: "." in t[0]))


def _datasets(key: str, setting: Setting, translation: Translation) -> Iterator[str]:
    for table in setting.value:
        yield f"[[{key}]]  # {_from(setting, translation)}\n{_lines(table)}".rstrip()
        yield from (f"[[{key}.subsets]]\n{_lines(subset)}" for subset in table.get("subsets", []))


def _lines(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{_key(name)} = {_value(value)}" for name, value in table.items() if name != "subsets")


def _from(setting: Setting, translation: Translation) -> str:
    names = ", ".join(setting.names)
    if setting.names == (LEFT,):
        return "to fill in"
    return f"{names}, left out: what {translation.source.program} does then" if setting.is_default else names


def _key(name: str) -> str:
    return tomlkit.key(name).as_string()


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {_value(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list) and len(value) > 1 and all(isinstance(one, str) for one in value):
        return "[\n" + "".join(f"    {_value(one)},\n" for one in value) + "]"
    if isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        return "[" + ", ".join(map(_value, value)) + "]"
    return tomlkit.item(value).as_string()
