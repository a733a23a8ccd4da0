"""What lies in the folders of the workspace: folders with how many images, and base models. Nothing outside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.data.pictures.files import EXTENSIONS
from trainer.errors import UserError
from ui.workspace import PASSED_OVER, Workspace

MOST = 500  # entries
MOST_COUNTED = 10_000  # images of a folder


@dataclass(frozen=True)
class Entry:
    """`path`: as a config names it."""

    path: str
    name: str
    images: int
    is_model: bool
    is_folder: bool


def inside(workspace: Workspace, path: str) -> Path:
    """Raises UserError for what is no folder of the workspace."""
    place = (workspace.root / path).resolve()
    shown = place.relative_to(workspace.root) if place.is_relative_to(workspace.root) else None
    if shown is None or not place.is_dir() or any(part.startswith(".") for part in shown.parts):
        raise UserError(f"{path!r}: there is no such folder in {workspace.root}.")
    return place


def entries(workspace: Workspace, path: str) -> list[Entry]:
    """Folders first, then models."""
    place = inside(workspace, path)
    found = []
    for entry in sorted(place.iterdir(), key=lambda p: p.name.casefold()):
        if (
            entry.name.startswith(".")
            or entry.name in PASSED_OVER
            or not entry.resolve().is_relative_to(workspace.root)
        ):
            continue
        model = (entry / "model_index.json").is_file() or entry.suffix == ".safetensors"
        if entry.is_dir() or model:
            count = _images(entry) if entry.is_dir() and not model else 0
            found.append(Entry(workspace.relative(entry), entry.name, count, model, entry.is_dir()))
    return sorted(found, key=lambda e: e.is_model)[:MOST]


def _images(folder: Path) -> int:
    count = 0
    for number, file in enumerate(folder.iterdir()):
        count += file.suffix.lower() in EXTENSIONS
        if number >= MOST_COUNTED:
            break
    return count
