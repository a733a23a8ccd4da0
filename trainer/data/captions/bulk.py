"""Changes caption files, one or many at once, each change as a whole and with a way back."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.files import ordinary
from trainer.files.atomic import write_text

LONGEST = 20_000  # characters of a caption
STEPS_BACK = 50


@dataclass(frozen=True)
class Change:
    """One file; None = it does not exist."""

    file: Path
    before: str | None
    after: str | None


def read(file: Path) -> str | None:
    """A caption file's text, None where there is none. Raises UserError where it can't be read."""
    try:
        return ordinary.text(file)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}).") from None


def changes(files: Iterable[Path], edit: Callable[[str], str], *, new: bool = False) -> list[Change]:
    """What an edit would change; `new`: it also makes the files that are missing."""
    found = []
    for file in dict.fromkeys(files):
        before = read(file)
        if before is None and not new:
            continue
        # The line's end is no part of a caption.
        text = (before or "").rstrip("\r\n")
        after = edit(text)
        if after != text:
            found.append(Change(file, before, after + "\n"))
    return found


class Editor:
    """`state`: the folder in which the way back is kept, in one of its own."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "undo"

    def write(self, what: str, wanted: Sequence[Change]) -> None:
        """Makes changes and keeps the way back first. Raises UserError where a file cannot be written."""
        for change in wanted:
            if change.after is not None and len(change.after) > LONGEST:
                raise UserError(f"{change.file.name}: a caption of {len(change.after)} characters is too long.")
        if not wanted:
            return
        note = {
            "what": what,
            "changes": [{"file": str(c.file), "before": c.before, "after": c.after} for c in wanted],
        }
        # Names sort by time; two within one tick of the clock stay apart.
        write_text(self._folder / f"{time.time_ns():020d}-{secrets.token_hex(2)}.json", json.dumps(note))
        for old in self._notes()[:-STEPS_BACK]:
            old.unlink(missing_ok=True)
        for change in wanted:
            _put(change.file, change.after)

    def last(self) -> str:
        """What undo would take back, "" where there is nothing."""
        notes = self._notes()
        told = _content(notes[-1]) if notes else None
        return str(told.get("what", "")) if isinstance(told, dict) else ""

    def undo(self) -> str:
        """Takes the last change back. Files that were changed since by somebody else are left alone and named."""
        notes = self._notes()
        if not notes:
            raise UserError("there is nothing to undo.")
        told = _content(notes[-1])
        if not isinstance(told, dict):
            notes[-1].unlink(missing_ok=True)
            raise UserError("the note of the last change is damaged; it cannot be undone.")
        other = []
        for entry in told["changes"]:
            file = Path(entry["file"])
            text = read(file)
            if text == entry["after"]:
                _put(file, entry["before"])
            elif text != entry["before"]:
                other.append(file.name)
        notes[-1].unlink(missing_ok=True)  # only now: one that was broken off can be taken up again
        left = f" Changed by somebody else since, so left alone: {', '.join(other[:5])}." if other else ""
        return f"Took back: {told['what']}.{left}"

    def _notes(self) -> list[Path]:
        return sorted(self._folder.glob("*.json"))


def _content(file: Path) -> Any:
    """Of a note; None where it is damaged."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _put(file: Path, text: str | None) -> None:
    try:
        if text is None:
            file.unlink(missing_ok=True)
        else:
            write_text(file, text)
    except OSError as error:
        raise UserError(f"{file}: could not be written ({error.strerror or error}).") from None
