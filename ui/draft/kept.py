"""Keeps what is typed into the form, for each config: the way back and forth, and what was not saved when a page went.

One file for each config in the UI's own folder; the config itself is only written by saving.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic import Field as Limits

from trainer.errors import UserError
from trainer.files.atomic import write_text
from ui.draft.config import fingerprint
from ui.workspace import Workspace

STEPS = 50  # texts that are kept
MOST_CHARACTERS = 2_000_000  # in all of them


class Kept(BaseModel):
    """`texts`: the config after each edit; `at`: the one that the form shows; `saved`: the hash of the file."""

    model_config = ConfigDict(extra="ignore")
    texts: list[str] = Limits(min_length=1)
    at: int = Limits(ge=0)
    saved: str
    time: float

    @property
    def text(self) -> str:
        return self.texts[min(self.at, len(self.texts) - 1)]


def _path(workspace: Workspace, file: str) -> Path:
    return workspace.state / "drafts" / f"{hashlib.sha256(file.encode()).hexdigest()[:24]}.json"


def read(workspace: Workspace, file: str) -> Kept | None:
    """None where nothing readable was kept for a config ("" = the one that has no file yet)."""
    try:
        return Kept.model_validate_json(_path(workspace, file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def _write(workspace: Workspace, file: str, kept: Kept) -> None:
    write_text(_path(workspace, file), kept.model_dump_json())


def forget(workspace: Workspace, file: str) -> None:
    _path(workspace, file).unlink(missing_ok=True)


def note(workspace: Workspace, file: str, before: str, now: str) -> None:
    """An edit; `before`: the text that the form began with. What had been taken back is forgotten."""
    kept = read(workspace, file)
    if kept is None:
        if now == before:
            return
        kept = Kept(texts=[before], at=0, saved=fingerprint(before), time=0.0)
    if now == kept.text:
        return
    texts = [*kept.texts[: kept.at + 1], now][-STEPS:]
    while len(texts) > 2 and sum(map(len, texts)) > MOST_CHARACTERS:
        del texts[0]
    _write(workspace, file, Kept(texts=texts, at=len(texts) - 1, saved=kept.saved, time=time.time()))


def saved(workspace: Workspace, before: str, after: str, text: str) -> None:
    """The config `before` was saved as `after`: the way back goes with it."""
    kept = read(workspace, before)
    if kept is None:
        return
    if before != after:
        forget(workspace, before)
    _write(workspace, after, Kept(texts=kept.texts, at=kept.at, saved=fingerprint(text), time=time.time()))
    note(workspace, after, text, text)


def waiting(workspace: Workspace, file: str) -> Kept | None:
    """Edits that were never saved."""
    kept = read(workspace, file)
    return kept if kept is not None and fingerprint(kept.text) != kept.saved else None


def step(workspace: Workspace, file: str, by: int) -> str:
    """The text one edit back (-1) or forth (1). Raises UserError where there is none."""
    kept = read(workspace, file)
    if kept is None or not 0 <= kept.at + by < len(kept.texts):
        raise UserError(f"there is nothing to {'undo' if by < 0 else 'redo'}.")
    moved = Kept(texts=kept.texts, at=kept.at + by, saved=kept.saved, time=time.time())
    _write(workspace, file, moved)
    return moved.text
