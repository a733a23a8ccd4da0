"""What becomes of a key of another program: carried over, changed in form, not needed, or without a counterpart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["carried", "changed", "unneeded", "missing"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Outcome:
    """Of one key."""

    kind: Kind
    sets: Mapping[str, Any] = field(default_factory=dict)  # our dotted key -> value
    why: str = ""
    harmless: bool = False  # of a missing one: what is learned does not depend on it


def carried(sets: Mapping[str, Any]) -> Outcome:
    return Outcome("carried", sets)


def changed(sets: Mapping[str, Any], why: str) -> Outcome:
    return Outcome("changed", sets, why)


def unneeded(why: str) -> Outcome:
    return Outcome("unneeded", why=why)


def missing(why: str, *, harmless: bool = False) -> Outcome:
    return Outcome("missing", why=why, harmless=harmless)
