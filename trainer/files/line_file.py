"""Appends whole lines to a file, and keeps those that a full disk refuses until there is room again."""

from __future__ import annotations

import contextlib
from pathlib import Path


class LineFile:
    """Each line is on its way to the disk when `write` returns; what cannot be written waits for the next line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A line that a killed run left unfinished must not swallow the next one.
        self._waiting = b"\n" if _torn(path) else b""
        self._file = path.open("ab", buffering=0)

    def write(self, line: str) -> None:
        self._waiting += line.encode("utf-8", "backslashreplace") + b"\n"
        with contextlib.suppress(OSError):  # a log is no reason to end a run
            while self._waiting and (written := self._file.write(self._waiting)):
                self._waiting = self._waiting[written:]


def _torn(path: Path) -> bool:
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) != b"\n"
