"""The looks at datasets that the UI keeps: making one, reading one, the picture that a page means."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import tomlkit

from trainer.config import reading
from trainer.errors import UserError
from trainer.files.atomic import write_text
from ui.draft.session import Page
from ui.work import look, processes
from ui.work.look import PROGRESS, DatasetLook, ImageView
from ui.workspace import Workspace

ID = re.compile(r"[0-9a-f]{16}")
STARTING = "Starting ..."
NO_BASE = "no base is chosen yet"


def folder(workspace: Workspace) -> Path:
    return workspace.state / "looks"


def id_of(page: Page) -> str:
    """One look for each config file; an unsaved config has one too."""
    return hashlib.sha256(page.draft.file.encode()).hexdigest()[:16]


def make(workspace: Workspace, page: Page) -> Iterator[str]:
    """Looks at the images of the form as it is, saved or not; yields lines about how far it is. Raises UserError."""
    directory = (workspace.root / page.draft.file).parent if page.draft.file else workspace.root
    config = reading.parse(with_some_base(page.text), directory=directory, source=page.draft.file or "config")
    id = id_of(page)
    copy, out = folder(workspace) / f"{id}.toml", folder(workspace) / f"{id}.json"
    # With absolute paths: the copy lies elsewhere.
    write_text(copy, reading.to_toml(config))
    before = _stamp(out)  # what was found last time serves until then
    yield STARTING
    said: list[str] = []
    for text in processes.stream(processes.module("ui.work.look", str(copy), str(out)), workspace.root):
        lines = text.split("\n")
        said = [line for line in lines if not line.startswith(PROGRESS)]
        if lines[-1].startswith(PROGRESS):
            what, done, total = json.loads(lines[-1][len(PROGRESS) :])
            yield f"{what} image {done:,} of {total:,}"
    if _stamp(out) == before:
        raise UserError([line for line in said[:-1] if line.strip()] or said or "the images could not be looked at.")


def _stamp(file: Path) -> int:
    return file.stat().st_mtime_ns if file.is_file() else 0


def with_some_base(text: str) -> str:
    """The config with a name for the base, so that images can be looked at before one is chosen."""
    document = tomlkit.parse(text)
    model = document.setdefault("model", tomlkit.table())
    if isinstance(model, MutableMapping) and model.get("base", "") == "":
        model["base"] = NO_BASE
    return tomlkit.dumps(document)


def read(workspace: Workspace, id: str) -> DatasetLook | None:
    """A look by the id that a page sent."""
    return look.read(folder(workspace) / f"{id}.json") if ID.fullmatch(id or "") else None


def need(workspace: Workspace, id: str) -> DatasetLook:
    found = read(workspace, id)
    if found is None:
        raise UserError("look at the images first.")
    return found


def picture(found: DatasetLook, index: str) -> ImageView:
    """The picture that a page picked, by its place."""
    if not re.fullmatch(r"[0-9]{1,9}", index or "") or int(index) >= len(found.pictures):
        raise UserError("choose an image first.")
    return found.pictures[int(index)]
