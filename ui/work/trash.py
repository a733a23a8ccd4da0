"""Deletes runs and configs so that they can come back: they are moved into the UI's own trash until it is emptied."""

from __future__ import annotations

import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from trainer.errors import UserError
from trainer.run.holder import holder_of
from ui.work import processes
from ui.workspace import Workspace, forget, read_json


@dataclass(frozen=True)
class Trashed:
    """`origin`: where it was, as the workspace names it."""

    id: str
    origin: str
    time: float
    size: int


def _folder(workspace: Workspace) -> Path:
    return workspace.state / "trash"


def throw_run(workspace: Workspace, name: str) -> None:
    """Raises UserError for a run that goes on, or that is about to."""
    run = workspace.run(name)
    with FileLock(workspace.state / "starts.lock"):
        if holder_of(run) or processes.starting(workspace, name):
            raise UserError(f"{name}: is training now; stop it first.")
        if run.path.is_dir():
            _throw(workspace, run.path)
        started = workspace.note("starts", {})
        workspace.write_note("starts", {k: v for k, v in started.items() if k != name})
    forget()


def throw_config(workspace: Workspace, name: str) -> None:
    _throw(workspace, workspace.config(name))
    forget()


def _throw(workspace: Workspace, path: Path) -> None:
    if path.is_symlink() or workspace.root.is_relative_to(path):
        raise UserError(f"{path}: a link, or what holds the workspace itself, is not deleted here.")
    place = _folder(workspace) / f"{time.time_ns():020d}-{secrets.token_hex(2)}"
    place.mkdir(parents=True)
    workspace.write_note(f"trash/{place.name}/about", {"origin": workspace.relative(path), "time": time.time()})
    try:
        shutil.move(path, place / path.name)
    except OSError as error:
        raise UserError(f"{path}: could not be moved to the trash ({error.strerror or error}).") from None


def listed(workspace: Workspace) -> list[Trashed]:
    """What can be brought back, the newest first."""
    found = []
    for place in sorted(_folder(workspace).glob("*"), reverse=True):
        told = read_json(place / "about.json")
        if isinstance(told, dict) and (place / Path(str(told.get("origin"))).name).exists():
            origin, when = str(told["origin"]), told.get("time")
            found.append(Trashed(place.name, origin, when if isinstance(when, float) else 0.0, size(place)))
    return found


def restore(workspace: Workspace, id: str) -> str:
    """Brings something back to where it was. Raises UserError where that place is taken."""
    found = next((item for item in listed(workspace) if item.id == id), None)
    if found is None:
        raise UserError("this is not in the trash any more.")
    target = workspace.absolute(found.origin)
    if target.exists():
        raise UserError(f"{found.origin}: there is one of this name again; rename that first.")
    target.parent.mkdir(parents=True, exist_ok=True)
    place = _folder(workspace) / id
    shutil.move(place / target.name, target)
    shutil.rmtree(place, ignore_errors=True)
    forget()
    return found.origin


def empty(workspace: Workspace) -> None:
    """For good."""
    shutil.rmtree(_folder(workspace), ignore_errors=True)


def size(path: Path) -> int:
    """Bytes of a file or of everything in a folder; links are not followed."""
    if not path.is_dir():
        return path.lstat().st_size if path.exists() else 0
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_symlink() or p.is_file())
