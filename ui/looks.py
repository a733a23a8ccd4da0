"""The looks at datasets that the UI keeps: making one, reading one, the picture that a page means."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from trainer import config_io
from trainer.errors import UserError
from trainer.files.atomic import write_text
from ui import look, processes
from ui.look import PROGRESS, Look, Picture
from ui.session import Page
from ui.workspace import Workspace

ID = re.compile(r"[0-9a-f]{16}")
STARTING = "Starting ..."


def folder(workspace: Workspace) -> Path:
    return workspace.state / "looks"


def id_of(page: Page) -> str:
    """One look for each config file; an unsaved config has one too."""
    return hashlib.sha256(page.draft.file.encode()).hexdigest()[:16]


def make(workspace: Workspace, page: Page) -> Iterator[str]:
    """Looks at the images of the form as it is, saved or not; yields lines about how far it is. Raises UserError."""
    directory = (workspace.root / page.draft.file).parent if page.draft.file else workspace.root
    config = config_io.parse(page.text, directory=directory, source=page.draft.file or "config")
    id = id_of(page)
    copy, out = folder(workspace) / f"{id}.toml", folder(workspace) / f"{id}.json"
    # With absolute paths: the copy lies elsewhere.
    write_text(copy, config_io.to_toml(config))
    out.unlink(missing_ok=True)
    yield STARTING
    said: list[str] = []
    for text in processes.stream(processes.module("ui.look", str(copy), str(out)), workspace.root):
        lines = text.split("\n")
        said = [line for line in lines if not line.startswith(PROGRESS)]
        if lines[-1].startswith(PROGRESS):
            what, done, total = json.loads(lines[-1][len(PROGRESS) :])
            yield f"{what} image {done:,} of {total:,}"
    if not out.is_file():
        raise UserError([line for line in said if line.strip()] or "the images could not be looked at.")


def read(workspace: Workspace, id: str) -> Look | None:
    """A look by the id that a page sent."""
    return look.read(folder(workspace) / f"{id}.json") if ID.fullmatch(id or "") else None


def need(workspace: Workspace, id: str) -> Look:
    found = read(workspace, id)
    if found is None:
        raise UserError("look at the images first.")
    return found


def picture(found: Look, index: str) -> Picture:
    """The picture that a page picked, by its place."""
    if not re.fullmatch(r"[0-9]{1,9}", index or "") or int(index) >= len(found.pictures):
        raise UserError("choose an image first.")
    return found.pictures[int(index)]
