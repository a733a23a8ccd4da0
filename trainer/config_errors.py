"""Turns pydantic's validation errors into lines a user can act on."""

from __future__ import annotations

import copy
import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from trainer.config import Config, extra
from trainer.config_keys import keys, tables

Place = tuple[str | int, ...]

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": 'text in quotes, like "this"',
    "list_type": "a list: [ ... ]",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "tuple_type": "a list of two values",
    "finite_number": "a finite number",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "less than {lt:g}",
    "literal_error": "one of {expected}",
    "too_long": "fewer values",
    "too_short": "more values",
}


def dotted(place: Place) -> str:
    """('datasets', 0, 'subsets', 1, 'image_dir') -> datasets[0].subsets[1].image_dir"""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place).lstrip(".")


def describe(error: ValidationError, values: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """One line per wrong key, and a copy of the values without those keys."""
    lines: dict[Place, tuple[Any, list[str]]] = {}
    for one in error.errors(include_url=False):
        place = _place_in(values, one["loc"])
        _, expected = lines.setdefault(place, (one.get("input"), []))
        if one["type"] == "extra_forbidden":
            expected.append("unknown")
        else:
            text = _EXPECTED.get(one["type"], "{msg}").format(msg=_plain(one["msg"]), **one.get("ctx", {}))
            expected.append(text)
    described = [_line(place, found, expected) for place, (found, expected) in lines.items()]
    rest = copy.deepcopy(values)
    for place in sorted(lines, key=len, reverse=True):
        _remove(rest, place)
    return described, rest


def _plain(message: str) -> str:
    text = message.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _line(place: Place, found: Any, expected: list[str]) -> str:
    if "unknown" in expected:
        return f"{dotted(place)}: unknown key{_suggest(place)}"
    wanted = " or ".join(dict.fromkeys(expected))
    return f"{dotted(place)}: found {shown(found)}, expected {wanted}."


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _place_in(values: Any, location: Place) -> Place:
    """The part of pydantic's location that exists in the file: names of union branches and validators are dropped."""
    place: list[str | int] = []
    here = values
    for index, part in enumerate(location):
        if _holds(here, part):
            here = here[part]
        elif isinstance(here, dict) and index == len(location) - 1:
            pass  # a missing key: named although it isn't there
        else:
            continue
        place.append(part)
    return tuple(place)


def _holds(container: Any, part: str | int) -> bool:
    if isinstance(container, list):
        return isinstance(part, int) and part < len(container)
    return isinstance(container, dict) and part in container


def _remove(values: Any, place: Place) -> None:
    for part in place[:-1]:
        values = values[part]
    if isinstance(values, dict):
        values.pop(place[-1], None)
    elif isinstance(values, list) and isinstance(place[-1], int):
        values[place[-1]] = {} if isinstance(values[place[-1]], dict) else None


def _suggest(place: Place) -> str:
    """Where the key may have been meant to go: a near name at its level, else the same or a near name anywhere."""
    name = str(place[-1])
    level = _level(Config, place[:-1])
    here = {} if level is None else _names(level)
    if name in here:
        return f". It is called {here[name]!r} here."
    near = difflib.get_close_matches(name, here, n=1, cutoff=0.6)
    if near:
        return f". Did you mean {here[near[0]]!r}?"
    anywhere: dict[str, str] = {}
    for path, field in keys():
        for known in (path.rpartition(".")[2], *extra(field).get("kohya", ())):
            anywhere.setdefault(known, path)
    near = [name] if name in anywhere else difflib.get_close_matches(name, anywhere, n=1, cutoff=0.8)
    if near:
        return f". Did you mean {anywhere[near[0]]!r}?"
    if not here:
        return "."
    return (
        f"; known here: {', '.join(sorted(set(here.values()))[:12])}{', ...' if len(set(here.values())) > 12 else ''}."
    )


def _names(level: type[BaseModel]) -> dict[str, str]:
    """Every name a key of this level is known by, its own first, to its own name."""
    names = {name: name for name in level.model_fields}
    for name, field in level.model_fields.items():
        for other in extra(field).get("kohya", ()):
            names.setdefault(other, name)
    return names


def _level(model: type[BaseModel], place: Place) -> type[BaseModel] | None:
    for part in place:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        if field is None:
            return None
        inside = tables(field)
        if not inside:
            return None
        model = inside[0]
    return model
