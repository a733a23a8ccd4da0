"""The names of the classes that images are of, as the config gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.config import paths
from trainer.errors import UserError
from trainer.files import ordinary

WHERE = "model.classes"


def class_names(given: Sequence[str] | str) -> tuple[str, ...]:
    """A list as it stands; of a folder the names of the folders in it, in alphabetical order; of a text file its lines.

    Raises UserError for a path that leads nowhere, and for names that are missing or come twice.
    """
    if isinstance(given, str) and given:
        paths.need(WHERE, given, "either")
    names = [name.strip() for name in (_read(Path(given)) if isinstance(given, str) and given else given)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{WHERE}: {', '.join(map(repr, twice[:5]))} stands there more than once.")
    if given and not (names and all(names)):
        raise UserError(f"{WHERE}: found {'an empty name' if names else 'no name'}; every class needs one.")
    return tuple(names)


def _read(path: Path) -> list[str]:
    if path.is_dir():
        return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    try:
        return [line for line in ordinary.text(path).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{WHERE}: {paths.named(str(path))} cannot be read as text ({error}).") from None
