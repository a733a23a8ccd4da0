"""Images of a folder with caption files beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from trainer.config import paths
from trainer.data.captions import files as captions
from trainer.data.captions import written
from trainer.data.captions.written import Written
from trainer.data.dataset import SubsetSource
from trainer.data.pictures import files as images
from trainer.data.pictures.files import printable
from trainer.errors import UserError

LABEL = "-masklabel"  # behind the name of an image: OneTrainer's mask of it


class FolderSource:
    """One subset without a metadata file."""

    def __init__(self, source: SubsetSource, image_dir: str) -> None:
        """Raises UserError when the folder is missing or holds no images."""
        self.source = source
        self.where = f"{source.where}.image_dir"
        self._files = listing(source.folder, self.where, image_dir)
        names = image_names(self._files)
        self._masks = labels(names)
        self.images = [join(source.folder, name) for name in names if name not in self._masks]
        if not self.images:
            raise UserError(
                f"{self.where}: no images in {printable(paths.named(image_dir))} (looked for "
                f"{' '.join(images.EXTENSIONS)}, not in folders below it)."
            )

    def notes(self) -> list[str]:
        foreign = sorted(name for name in self._files if name.lower().endswith(images.UNREAD))
        notes = []
        if foreign:
            notes.append(
                f"{self.source.where}: {len(foreign)} files look like images but are of no format that is read: "
                f"{images.listed(foreign)}"
            )
        if self._masks and not self.source.has_masks:
            notes.append(
                f"{self.source.where}: {len(self._masks)} files are masks of images (OneTrainer's) and do not train; "
                f"conditioning_data_dir = the same folder uses them: {images.listed(sorted(self._masks))}"
            )
        return notes

    def written(self, path: str) -> Written:
        """What is written about an image. Raises UserError naming the caption file that is wrong."""
        options = self.source.options
        name = os.path.basename(path)  # noqa: PTH119  (a plain string, which may hold bytes that are not UTF-8)
        names = captions.find(name, self._files, options.caption_extension)
        sidecar = captions.find(name, self._files, ".json")
        described = self._described(sidecar[0], asked=names == sidecar) if sidecar else None
        if names and names != sidecar:
            found = written.from_lines(captions.read_agreeing(self.source.folder, names), options)
            weight = described.weight if described else 1.0
            return Written(found.captions, found.origin, found.unused_lines, weight)
        return described or written.missing(options)

    def _described(self, name: str, *, asked: bool) -> Written | None:
        """What a JSON file beside an image says. One that was not asked for by caption_extension may be another tool's:
        it counts only when it holds one of our keys."""
        file = self.source.folder / name
        entry = written.read_json(file)
        if not asked and not (isinstance(entry, dict) and written.KEYS & entry.keys()):
            return None
        return written.from_entry(entry, self.source.options, printable(file))

    def no_captions(self) -> str:
        """The message for a subset without any caption, with what could help."""
        looked = " or ".join(captions.extensions(self.source.options.caption_extension))
        hint = ""
        for other in captions.DEFAULT_EXTENSIONS:
            count = sum(bool(captions.find(Path(path).name, self._files, other)) for path in self.images)
            if count:
                hint = f" There are {count} {other} files: set caption_extension = {other!r}."
        return (
            f"{self.source.where}: none of the {len(self.images)} images in {printable(self.source.folder)} has a "
            f"caption (a file of the same name ending in {looked}) and class_tokens is not set.{hint}"
        )


def labels(names: Iterable[str]) -> set[str]:
    """Those of the image names that are OneTrainer's masks of others among them."""
    there = list(names)
    stems = {os.path.splitext(name)[0] for name in there}  # noqa: PTH122
    ended = {name: os.path.splitext(name)[0] for name in there}  # noqa: PTH122
    return {name for name, stem in ended.items() if stem.endswith(LABEL) and stem.removesuffix(LABEL) in stems}


def join(folder: Path, name: str) -> str:
    return os.path.join(folder, name)  # noqa: PTH118  (a hundred thousand Path objects would be three times as large)


def listing(folder: Path, key: str, written: str) -> frozenset[str]:
    """The names in a folder. Raises UserError that tells the key and how the folder was written."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError as error:
        told = paths.problem(key, written or str(folder), "folder", folder.parent)
        told = told or f"{key}: {paths.named(written)} cannot be read: {error.strerror or error}."
        raise UserError(printable(told)) from error


def image_names(files: Iterable[str]) -> list[str]:
    """The names that end like an image, sorted. Hidden files are none: macOS leaves ._name.jpg beside name.jpg."""
    return sorted(n for n in files if n.lower().endswith(images.EXTENSIONS) and not n.startswith("."))
