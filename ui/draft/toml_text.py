"""Writes what the form says into the file's text: only what changed, so that comments and order survive."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping, MutableMapping
from typing import Any

import tomlkit
from tomlkit.items import AoT, Item

from ui.draft.config import DatasetForm, Draft, FormEntry, plain_shown
from ui.draft.fields import (
    DATASET,
    FOLDER,
    UNSET,
    Control,
    Field,
    all_fields,
    from_control,
    noise_headlines,
    section_fields,
    to_control,
)

Table = MutableMapping[str, Any]


def rendered(draft: Draft, controls: Mapping[str, Control]) -> str:
    """The TOML text of a draft (with its selected entries taken over, see `collected`) and the other controls."""
    document = tomlkit.parse(draft.text.removeprefix("\ufeff"))
    before = plain_shown(draft.text)
    new_sections: dict[str, dict[str, Any]] = {}
    for key, old in before.items():
        if controls[key] != old:
            _set_plain(document, new_sections, all_fields()[key], controls[key])
    _set_datasets(document, [d for d in draft.datasets if not d.held_out])
    held_out = [d for d in draft.datasets if d.held_out]
    if held_out or "datasets" in document.get("validation", {}):
        _set_datasets(document.setdefault("validation", tomlkit.table()), held_out)
    return _insert_sections(_spaced(tomlkit.dumps(document), draft.text), new_sections)


def _set_plain(document: Table, new: dict[str, dict[str, Any]], field: Field, control: Control) -> None:
    value = from_control(field, control)
    section, *inner = field.key.split(".")
    if value is UNSET or (field.kind == "presence" and value is False):
        _remove(document, [section, *inner])
        return
    if field.kind == "presence":
        headline = all_fields()[noise_headlines()[field.key]]
        value = headline.default if from_control(field, True) else UNSET
    target = document.get(section)
    if not isinstance(target, MutableMapping):
        target = new.setdefault(section, {})
    if len(inner) == 2:
        _set_noise(target, inner[0], inner[1], field, value, control)
    else:
        _put(target, inner[0], value, control)


def _set_noise(noise: Table, plugin: str, setting: str, field: Field, value: Any, control: Control) -> None:
    """A plugin's setting: `plugin = value` where it is the headline and stands alone, else in the plugin's table."""
    headline = noise_headlines()[f"noise.{plugin}"].rpartition(".")[2]
    there = noise.get(plugin)
    if isinstance(there, MutableMapping):
        _put(there, setting, value, control)
    elif setting == headline:
        _put(noise, plugin, value, control)
    else:
        table = tomlkit.table()
        if there is not None:
            table[headline] = copy.copy(there) if isinstance(there, Item) else there
            noise.pop(plugin)
        _put(table, setting, value, control)
        noise[plugin] = table


def _put(table: Table, name: str, value: Any, control: Control | None = None) -> None:
    """Sets a key and keeps the comment behind it; a number is written as it was typed where TOML reads it so."""
    item = _as_typed(value, control)
    old = table.get(name)
    if isinstance(old, Item) and isinstance(item, Item) and not isinstance(old, (AoT, MutableMapping)):
        item.trivia.comment_ws, item.trivia.comment = old.trivia.comment_ws, old.trivia.comment
        item.trivia.trail = old.trivia.trail
    table[name] = item


def _as_typed(value: Any, control: Control | None) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and isinstance(control, str):
        try:
            typed = tomlkit.parse(f"x = {control.strip()}")["x"]
        except tomlkit.exceptions.TOMLKitError:
            typed = None
        if isinstance(typed, Item) and typed == value:
            typed.trivia.trail = "\n"
            return typed
    if isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) for v in value):
        lines = tomlkit.array()
        lines.extend(value)
        return lines.multiline(True)
    if isinstance(value, dict):
        inline = tomlkit.inline_table()
        inline.update(value)
        return inline
    return tomlkit.item(list(value) if isinstance(value, tuple) else value)


def _remove(table: Table, path: list[str]) -> None:
    """Removes a key, and a plugin's table that is empty then; `noise.x = value` counts as the table of x."""
    for part in path[:-1]:
        inner = table.get(part)
        if not isinstance(inner, MutableMapping):
            if len(path) == 3 and part == path[1] and inner is not None:
                table.pop(part)
            return
        table = inner
    table.pop(path[-1], None)


def _set_datasets(document: Table, datasets: list[DatasetForm]) -> None:
    old = document.get("datasets")
    _set_entries(document, "datasets", datasets, DATASET)
    tables = document.get("datasets", [])
    if old is None and not datasets:
        return
    for table, dataset in zip(tables, datasets, strict=True):
        _set_entries(table, "subsets", dataset.folders, FOLDER)


def _set_entries(parent: Table, name: str, entries: list[Any], section: str) -> None:
    """Makes the list of tables hold the entries: dropped ones go, changed keys change, new ones come last."""
    kept = [entry.origin for entry in entries if entry.origin is not None]
    if parent.get(name) is None:
        if not entries:
            return
        parent[name] = tomlkit.aot()
    tables = parent[name]
    for index in reversed(range(len(tables))):
        if index not in kept:
            del tables[index]
    for position, entry in enumerate(entries):
        if entry.origin is None:
            tables.append(tomlkit.table())
        _set_entry(tables[position], entry, section)
    if not entries:
        parent.pop(name)


def _set_entry(table: Table, entry: FormEntry, section: str) -> None:
    for field in section_fields(section):
        control = entry.written.get(field.name)
        shown = to_control(field, _plain(table[field.name])) if field.name in table else None
        if control == shown:
            continue
        value = UNSET if control is None else from_control(field, control)
        if value is UNSET:
            table.pop(field.name, None)
        else:
            _put(table, field.name, value, control)


def _spaced(text: str, before: str) -> str:
    """A blank line before every table that had none above it in the old text; tomlkit puts new ones right below."""
    old = before.splitlines()
    together = set(itertools.pairwise(old))
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        above = lines[-1].rstrip("\n") if lines else ""
        is_table = re.match(r"\s*\[\[?[\w.\"' -]+\]\]?\s*(#.*)?$", line)
        if is_table and above.strip() and (above, line.rstrip("\n")) not in together and above.lstrip()[0] != "#":
            lines.append("\n")
        lines.append(line)
    spaced = "".join(lines)
    # Inside a text of several lines a line may look like a table: then all stays as it is.
    return spaced if tomlkit.parse(spaced).unwrap() == tomlkit.parse(text).unwrap() else text


def _plain(value: Any) -> Any:
    return value.unwrap() if isinstance(value, Item) else value


def _insert_sections(text: str, sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Adds whole new sections before the dataset tables, where a person would look for them."""
    if not sections:
        return text
    added = ""
    for name, values in sections.items():
        document = tomlkit.document()
        document[name] = values
        added += tomlkit.dumps(document).strip() + "\n\n"
    lines = text.splitlines(keepends=True)
    at = next((i for i, line in enumerate(lines) if re.match(r"\s*\[\[?\s*(datasets|general)\b", line)), len(lines))
    while at > 0 and lines[at - 1].lstrip().startswith("#"):
        at -= 1  # a comment right above a table belongs to it
    before, after = "".join(lines[:at]), "".join(lines[at:])
    if before.strip():
        before = before.rstrip("\n") + "\n\n"
    return before + (added if after.strip() else added.rstrip("\n") + "\n") + after
