"""Images and captions of a metadata file: kohya's JSON ({key: {caption, tags}}) or lines of {image_path, ...}."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from trainer.data import folder_source, images, written
from trainer.data.dataset import Source
from trainer.data.images import printable
from trainer.data.written import Written
from trainer.errors import UserError


class MetadataSource:
    """One subset with a metadata file. Keys are absolute, or relative to image_dir (else to the metadata file), and may
    lack the extension."""

    def __init__(self, source: Source, metadata_file: Path, image_dir: str) -> None:
        """Raises UserError when the file is missing, not JSON, of another shape or without entries."""
        self.source = source
        self.where = f"{source.where}.metadata_file"
        self._file = metadata_file
        files = folder_source.listing(source.folder, f"{source.where}.image_dir: {image_dir!r}")
        stems = {os.path.splitext(name)[0]: name for name in folder_source.image_names(files)}  # noqa: PTH122
        self._entries = {self._path(key, stems): entry for key, entry in _entries(metadata_file, self.where).items()}
        self.images = sorted(self._entries)
        if not self.images:
            raise UserError(f"{self.where}: {printable(metadata_file)} lists no images")
        known = {os.path.basename(path) for path in self.images}  # noqa: PTH119
        self._unlisted = [name for name in stems.values() if image_dir and name not in known]

    def _path(self, key: str, stems: dict[str, str]) -> str:
        name = key if key.lower().endswith(images.EXTENSIONS) else stems.get(key, key)
        return folder_source.join(self.source.folder, name)

    def notes(self) -> list[str]:
        if not self._unlisted:
            return []
        return [
            f"{self.source.where}: {len(self._unlisted)} images of image_dir are not in the metadata file and do not "
            f"train: {images.listed(self._unlisted)}"
        ]

    def written(self, path: str) -> Written:
        where = f"{printable(self._file)}: {os.path.basename(path)}"  # noqa: PTH119
        return written.from_entry(self._entries[path], self.source.options, where)

    def no_captions(self) -> str:
        return (
            f"{self.source.where}: none of the {len(self.images)} images in {printable(self._file)} has a caption or "
            "tags, and class_tokens is not set."
        )


def _entries(path: Path, where: str) -> dict[str, Any]:
    if path.suffix.lower() == ".jsonl":
        return _from_lines(path, where)
    content = written.read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{where}: {printable(path)} must hold one object with an entry per image")
    return content


def _from_lines(path: Path, where: str) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: {printable(path)} cannot be read: {error}") from error
    found: dict[str, Any] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            key = entry.pop("image_path")
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise UserError(
                f"{where}: {printable(path)}, line {number}: expected an object with image_path ({error})"
            ) from error
        found[str(key)] = entry
    return found
