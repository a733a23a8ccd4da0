"""The values of another program's file: read as numbers, words or flags however the file writes them, with defaults."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOTHING: tuple[Any, ...] = ("", None, "None", "none", "null", [], (), {})  # how files say that a key is not set
# Texts that say yes or no.
WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class BadValueError(ValueError):
    """A value that the other program could not use either; says what was expected."""

    def __init__(self, name: str, value: Any, expected: str) -> None:
        super().__init__(f"{name}: found {value!r}, expected {expected}.")


@dataclass(frozen=True)
class Context:
    """What counts besides the keys."""

    folder: Path = field(default_factory=Path)  # where the file lies
    script: str = ""  # what the file is for, where the program has several
    family: str = ""  # "sd" or "sdxl", where script or file tell it
    tables: Mapping[str, Any] = field(default_factory=dict)  # contents of files that the file names, by its key


class Values:
    """What a file says. `values[name]` is None where it says nothing and the program has no default."""

    def __init__(self, defaults: Mapping[str, Any], given: Mapping[str, Any], context: Context) -> None:
        self.defaults, self.given, self.context = defaults, given, context

    def has(self, name: str) -> bool:
        """Whether the file sets it."""
        return name in self.given and self.given[name] not in NOTHING

    def __getitem__(self, name: str) -> Any:
        if self.has(name):
            return self.given[name]
        default = self.defaults.get(name)
        return None if default in NOTHING else default

    def flag(self, name: str) -> bool:
        value = self[name]
        if isinstance(value, str) and value.strip().lower() in WORDS:
            return WORDS[value.strip().lower()]
        if isinstance(value, (bool, int, float)) or value is None:
            return bool(value)
        raise BadValueError(name, value, "true or false")

    def number(self, name: str) -> float | None:
        value = self[name]
        try:
            return None if value is None else float(value)
        except (TypeError, ValueError):
            raise BadValueError(name, value, "a number") from None

    def whole(self, name: str) -> int | None:
        found = self.number(name)
        if found is not None and found % 1:
            raise BadValueError(name, self[name], "a whole number")
        return None if found is None else int(found)

    def text(self, name: str) -> str:
        value = self[name]
        return "" if value is None else str(value)

    def words(self, name: str) -> list[Any]:
        """A list, also where a single value, a text with commas or blanks, or one such as "[1, 2]" stands for one."""
        value = self[name]
        if isinstance(value, str) and value.strip()[:1] in ("[", "("):
            value = literal(value)
        if isinstance(value, str):
            return value.replace(",", " ").split()
        return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]

    def under(self, prefix: str) -> dict[str, Any]:
        """What the file sets below a name: {"weight_decay": "0.1"} for optimizer_args."""
        return {name.removeprefix(prefix): v for name, v in self.given.items() if name.startswith(prefix)}


def literal(value: Any) -> Any:
    """What a text such as `0.9,0.99` or `True` means, as Python reads it; another text stays."""
    if not isinstance(value, str):
        return value
    try:
        found = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value
    return list(found) if isinstance(found, tuple) else found
