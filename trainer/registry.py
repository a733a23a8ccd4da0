"""Finds a plugin by kind and name, imports only that file, and sees whether it keeps to its interface."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from typing import Any

from trainer import protocols
from trainer.errors import UserError

INTERFACES = {
    "noise": protocols.NoiseStage,
    "models": protocols.Family,
    "bases": protocols.BaseReader,
    "objectives": protocols.Objective,
    "adapters": protocols.AdapterKind,
}


@cache
def names(kind: str) -> tuple[str, ...]:
    """All plugins of a kind, sorted, without importing any. Files that start with "_" are helpers."""
    package = importlib.import_module(f"plugins.{kind}")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")))


def find(kind: str, name: str) -> Any:
    """The plugin class `PLUGIN` of plugins/<kind>/<name>.py; a name may also be one of a plugin's `aliases`.

    Raises UserError when there is none, with the nearest names, and when it does not keep to its interface.
    """
    if name in names(kind):
        return _checked(kind, name)
    aliases = {alias: n for n in names(kind) for alias in getattr(find(kind, n), "aliases", ())}
    if name in aliases:
        return find(kind, aliases[name])
    known = sorted({*names(kind), *aliases})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(f"there is no {kind} plugin called {name!r}; there are: {', '.join(known)}.{hint}")


@cache
def _checked(kind: str, name: str) -> Any:
    plugin = importlib.import_module(f"plugins.{kind}.{name}").PLUGIN
    if problems := faults(plugin, INTERFACES[kind]):
        raise UserError(f"plugins/{kind}/{name}.py: {problem}" for problem in problems)
    return plugin


def faults(plugin: type, interface: type) -> list[str]:
    """What the interface asks for and the class lacks, and what nothing reads but resembles something that is read."""
    wanted = members(interface)
    missing = sorted(wanted - {*dir(plugin)})
    own = {member for base in plugin.__mro__ for member in vars(base) if base is not object} - wanted
    near = {member: difflib.get_close_matches(member, wanted, n=1, cutoff=0.85) for member in sorted(own)}
    return [
        *(f"{plugin.__name__} has no {m!r}, which every plugin of its kind has" for m in missing),
        *(f"nothing reads {plugin.__name__}.{m}. Did you mean {found[0]!r}?" for m, found in near.items() if found),
    ]


def members(interface: type) -> set[str]:
    """What a class must have: the methods and class attributes of a protocol."""
    told = {name for name, kind in interface.__annotations__.items() if str(kind).startswith("ClassVar")}
    return told | {name for name in vars(interface) if not name.startswith("_") and callable(getattr(interface, name))}


def canonical(kind: str, name: str) -> str:
    """The file name behind a name or alias."""
    return str(find(kind, name).__module__).rpartition(".")[2]
