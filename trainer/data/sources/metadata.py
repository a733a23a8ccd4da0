"""Images and captions of a metadata file: kohya's JSON, or lines as kohya's files and Hugging Face's folders have."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from trainer.data.captions import written
from trainer.data.captions.written import Written
from trainer.data.dataset import SubsetSource
from trainer.data.pictures import files as images
from trainer.data.pictures.files import printable
from trainer.data.sources import folder as folder_source
from trainer.errors import UserError
from trainer.files import ordinary


class MetadataSource:
    """One subset with a metadata file. Keys are absolute, or relative to image_dir (else to the metadata file), and may
    lack the extension."""

    def __init__(self, source: SubsetSource, metadata_file: Path, image_dir: str) -> None:
        """Raises UserError when the file is missing, not JSON, of another shape or without entries."""
        self.source = source
        self.where = f"{source.where}.metadata_file"
        self._file = metadata_file
        files = folder_source.listing(source.folder, f"{source.where}.image_dir", image_dir)
        stems = {os.path.splitext(name)[0]: name for name in folder_source.image_names(files)}  # noqa: PTH122
        self._elsewhere: dict[str, dict[str, str]] = {}  # folders besides image_dir: names without extension -> names
        self._entries = {self._path(key, stems): entry for key, entry in _entries(metadata_file, self.where).items()}
        self.images = sorted(self._entries)
        if not self.images:
            raise UserError(f"{self.where}: {printable(metadata_file)} lists no images")
        known = {os.path.basename(path) for path in self.images}  # noqa: PTH119
        self._unlisted = [name for name in stems.values() if image_dir and name not in known]

    def _path(self, key: str, stems: dict[str, str]) -> str:
        if key.lower().endswith(images.EXTENSIONS):
            return folder_source.join(self.source.folder, key)
        if key in stems:
            return folder_source.join(self.source.folder, stems[key])
        path = folder_source.join(self.source.folder, key)
        inside, stem = os.path.split(path)
        if inside not in self._elsewhere:
            self._elsewhere[inside] = _by_stem(inside)
        return os.path.join(inside, self._elsewhere[inside].get(stem, stem))  # noqa: PTH118

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


def _by_stem(folder: str) -> dict[str, str]:
    """The images of a folder by their names without extension; the first of several that share one."""
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return {}
    return {os.path.splitext(name)[0]: name for name in reversed(folder_source.image_names(names))}  # noqa: PTH122


def _entries(path: Path, where: str) -> dict[str, Any]:
    if path.suffix.lower() == ".jsonl":
        return _from_lines(path, where)
    content = written.read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{where}: {printable(path)} must hold one object with an entry per image")
    return content


def _from_lines(path: Path, where: str) -> dict[str, Any]:
    try:
        text = ordinary.content(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: {printable(path)} cannot be read: {error}") from error
    found: dict[str, Any] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            key = entry.pop("image_path") if "image_path" in entry else entry.pop("file_name")
            if "text" in entry and "caption" not in entry:  # as Hugging Face's image folders name it
                entry["caption"] = entry.pop("text")
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise UserError(
                f"{where}: {printable(path)}, line {number}: expected an object with image_path or file_name ({error})"
            ) from error
        found[str(key)] = entry
    return found
