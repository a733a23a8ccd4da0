"""Translates the keys of another program's file into ours, and says of each of them what became of it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trainer.config.foreign.keys import Table
from trainer.config.foreign.outcome import Outcome, missing, unneeded
from trainer.config.foreign.values import WORDS, BadValueError, Context, Values, literal
from trainer.errors import UserError


@dataclass(frozen=True)
class Source:
    """A file of another program, read.

    `given`: its keys as the program's table names them. `names`: for each key of the file, the table's keys that it
    feeds; a key that is not listed feeds the one of its own name. `told`: keys that the reader itself has settled.
    """

    program: str  # "sd-scripts"
    what: str  # "an sd-scripts training config"
    table: Table
    given: Mapping[str, Any]
    context: Context = field(default_factory=Context)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    told: Mapping[str, Outcome] = field(default_factory=dict)
    raw: Mapping[str, Any] | None = None  # the file's own keys and values, where they are not `given`
    secrets: tuple[str, ...] = ()  # keys whose values are never shown
    unsure: tuple[str, ...] = ()  # our keys that the file knows in part only
    implied: Mapping[str, Any] = field(default_factory=dict)  # settings of ours that follow from what the file is for

    @property
    def keys(self) -> Mapping[str, Any]:
        """Every key of the file with its value."""
        return self.given if self.raw is None else self.raw


@dataclass(frozen=True)
class Entry:
    """What became of one key of the file."""

    name: str
    value: Any
    outcome: Outcome


@dataclass(frozen=True)
class Setting:
    """A value of ours and where it comes from."""

    value: Any
    names: tuple[str, ...]  # the file's keys, or the program's where `is_default`
    is_default: bool  # the file leaves it out: it is what the other program does then


@dataclass(frozen=True)
class Translation:
    source: Source
    settings: Mapping[str, Setting]  # by our dotted key
    entries: tuple[Entry, ...]  # one for each key of the file


def translate(source: Source) -> Translation:
    """Raises UserError for values that the other program could not have read."""
    values = Values(source.table.defaults, source.given, source.context)
    outcomes, problems = _outcomes(source, values)
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    of_file = {name: _joined(source, name, outcomes) for name in source.keys}
    entries = tuple(Entry(n, source.keys[n], _told(o, source.keys[n])) for n, o in of_file.items())
    return Translation(source, _settings(source, values, outcomes), entries)


def _outcomes(source: Source, values: Values) -> tuple[dict[str, Outcome], list[str]]:
    """Of every key that the file sets or that has a default; and what is wrong."""
    found, problems = {}, []
    for name in dict.fromkeys([*source.given, *source.table.defaults]):
        key = source.table.find(name)
        try:
            found[name] = unknown(name, source) if key is None else key.outcome(values, name)
        except BadValueError as error:
            problems.append(str(error))
    return found, problems


def unknown(name: str, source: Source) -> Outcome:
    near = nearest(name, source.table)
    return missing(f"{source.program} has no such key{f'; did you mean {near}?' if near else ''}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that looks most like it, "" where none does."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return found[0] if found else ""


def _joined(source: Source, name: str, outcomes: Mapping[str, Outcome]) -> Outcome:
    """Of a key of the file, from the table's keys that it feeds."""
    if name in source.told:
        return source.told[name]
    found = [outcomes[n] for n in source.names.get(name, (name,)) if n in outcomes]
    if not found:
        return unneeded("off")
    for kind in ("missing", "changed", "carried"):
        of_kind = [one for one in found if one.kind == kind]
        if of_kind:
            sets = {key: value for one in found for key, value in one.sets.items()}
            harmless = all(one.harmless for one in of_kind)
            return Outcome(kind, sets, of_kind[0].why, harmless)
    return found[0]


def _told(outcome: Outcome, value: Any) -> Outcome:
    """Carried over only if one of our keys has the very value; else its form changed."""
    if outcome.kind != "carried" or any(alike(value, ours) for ours in outcome.sets.values()):
        return outcome
    return replace(outcome, kind="changed")


def alike(theirs: Any, ours: Any) -> bool:
    """Whether two values say the same, whatever the file's way to write numbers and flags."""
    theirs, ours = literal(theirs), literal(ours)
    if isinstance(theirs, bool) or isinstance(ours, bool):
        return _as_flag(theirs) is _as_flag(ours)
    if isinstance(theirs, (int, float)) and isinstance(ours, (int, float)):
        return math.isclose(theirs, ours)
    if isinstance(theirs, (list, tuple)) and isinstance(ours, (list, tuple)):
        return len(theirs) == len(ours) and all(map(alike, theirs, ours))
    return str(theirs) == str(ours)


def _as_flag(value: Any) -> Any:
    return WORDS.get(str(value).lower(), value)


def _settings(source: Source, values: Values, outcomes: Mapping[str, Outcome]) -> dict[str, Setting]:
    """Ours, each with the keys that it comes from: those of the file, or the program's defaults."""
    own = [name for name in source.keys if name not in source.told]
    feeding = {n: name for name in own for n in source.names.get(name, (name,))}
    found: dict[str, Setting] = {}
    for is_default in (False, True):
        mine = [name for name in outcomes if values.has(name) != is_default]
        # Of what is left out, keys with a default are named first: the others only follow from them.
        for name in sorted(mine, key=lambda name: is_default and values[name] is None):
            for key, value in outcomes[name].sets.items():
                found[key] = _agreed(key, found.get(key), Setting(value, (feeding.get(name, name),), is_default))
    return found | {key: Setting(value, (source.what,), False) for key, value in source.implied.items()}


def _agreed(key: str, before: Setting | None, more: Setting) -> Setting:
    """A value that several keys say. Raises UserError where they contradict each other."""
    if before is None:
        return more
    if before.is_default != more.is_default:
        return before
    if before.is_default:
        return before
    if before.value != more.value:
        names = " and ".join((*before.names, *more.names))
        raise UserError(f"{names}: they contradict each other ({key} = {before.value!r} and {more.value!r}).")
    return replace(before, names=tuple(dict.fromkeys((*before.names, *more.names))))
