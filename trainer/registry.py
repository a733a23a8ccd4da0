"""Finds a plugin by kind and name, and imports only that file."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from typing import Any

from trainer.errors import UserError


@cache
def names(kind: str) -> tuple[str, ...]:
    """All plugins of a kind, sorted, without importing any. Files that start with "_" are helpers."""
    package = importlib.import_module(f"plugins.{kind}")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")))


def find(kind: str, name: str) -> Any:
    """The plugin class `PLUGIN` of plugins/<kind>/<name>.py; a name may also be one of a plugin's `aliases`.

    Raises UserError when there is none, with the nearest names.
    """
    if name in names(kind):
        return importlib.import_module(f"plugins.{kind}.{name}").PLUGIN
    aliases = {alias: n for n in names(kind) for alias in getattr(find(kind, n), "aliases", ())}
    if name in aliases:
        return find(kind, aliases[name])
    known = sorted({*names(kind), *aliases})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(f"there is no {kind} plugin called {name!r}; there are: {', '.join(known)}.{hint}")


def canonical(kind: str, name: str) -> str:
    """The file name behind a name or alias."""
    return str(find(kind, name).__module__).rpartition(".")[2]
