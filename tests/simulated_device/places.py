"""Finds the line of the project that an operation was called from."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_OURS = tuple(f"{ROOT / name}/" for name in ("trainer", "plugins", "demo", "ui"))
_TESTS = f"{ROOT / 'tests'}/"
_TOOL = f"{Path(__file__).resolve().parent}/"


@dataclass(frozen=True)
class Place:
    file: str  # relative to the project
    function: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


def caller() -> Place:
    """The innermost line of the product, else of the tests, on the way to here."""
    frame, test = sys._getframe(1), None
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_OURS):
            return _place(frame)
        if test is None and file.startswith(_TESTS) and not file.startswith(_TOOL):
            test = frame
        frame = frame.f_back  # type: ignore[assignment]
    return Place("elsewhere", "", 0) if test is None else _place(test)


def _place(frame) -> Place:  # type: ignore[no-untyped-def]
    code = frame.f_code
    return Place(code.co_filename.removeprefix(f"{ROOT}/"), code.co_name, frame.f_lineno)
