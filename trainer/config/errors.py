"""Turns pydantic's validation errors into lines a user can act on."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from trainer.config.foreign.names import counterparts
from trainer.config.keys import keys, tables
from trainer.config.schema.whole import Config

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
    "tuple_type": "a list of two values, such as [512, 768]",
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
    if isinstance(found, dict) and "a list: [ ... ]" in expected:
        name = ".".join(part for part in place if isinstance(part, str))
        return (
            f"{dotted(place)}: found one table, expected a list of tables: write [[{name}]], in two pairs of brackets."
        )
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
    """Where the key may have been meant to go: what another program calls so, the same name elsewhere, a near name."""
    name = str(place[-1])
    level = _level(Config, place[:-1])
    here = [] if level is None else list(level.model_fields)
    if theirs := _counterpart(name, here):
        return theirs
    anywhere = _anywhere()
    if name in anywhere:  # the very name beats one that only looks like it
        return f". Did you mean {anywhere[name]!r}?"
    if near := difflib.get_close_matches(name, here, n=1, cutoff=0.6):
        return f". Did you mean {near[0]!r}?"
    if near := difflib.get_close_matches(name, anywhere, n=1, cutoff=0.8):
        return f". Did you mean {anywhere[near[0]]!r}?"
    if found := nearest_counterpart(name):
        return found
    return f"; known here: {', '.join(sorted(here)[:12])}{', ...' if len(here) > 12 else ''}." if here else "."


def _counterpart(name: str, here: Sequence[str]) -> str:
    """What is said of a key that another program has; "" for any other. A name of ours is ours first."""
    theirs = counterparts().get(name)
    if theirs is None or (name in _anywhere() and name not in here):
        return ""
    mine = [key.rpartition(".")[2] for key in theirs.ours if key.rpartition(".")[2] in here]
    if mine:
        return f". It is called {mine[0]!r} here."
    if theirs.ours:
        return f". Did you mean {theirs.ours[0]!r}?"
    return f". It is a key of {theirs.program}, {theirs.why}." if theirs.why else ""


def nearest_counterpart(name: str) -> str:
    """For a mistyped name of another program's."""
    near = difflib.get_close_matches(name, counterparts(), n=1, cutoff=0.85)
    return _counterpart(near[0], ()) if near else ""


def place_of(name: str) -> str:
    """The dotted key that a name stands for: its own, or the first that ends so; "" for a name that is none of ours."""
    return name if any(path == name for path, _ in keys()) else _anywhere().get(name, "")


@cache
def _anywhere() -> dict[str, str]:
    """Every name of ours to the first place that has it, lists of tables last: [general] tells options of images."""
    found: dict[str, str] = {}
    for path, _ in sorted(keys(), key=lambda one: "[]" in one[0]):
        name = path.rpartition(".")[2]
        if not path.startswith("validation.datasets[]"):
            found.setdefault(name, path)
    return found


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
