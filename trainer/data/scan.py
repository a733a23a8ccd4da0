"""Walks the dataset tables of a config and finds every image that will train, or every reason why it cannot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer import config
from trainer.config import DatasetOptions, SubsetOptions, effective
from trainer.data import captions, images, sizing
from trainer.data.buckets import Fit, Size
from trainer.data.dataset import Dataset, Item, Skipped, Source
from trainer.data.images import BrokenImageError, printable
from trainer.errors import UserError

SHOWN = 5  # how many names a message lists
Progress = Callable[[int, int], None]  # (done, total)


def scan(
    datasets: Sequence[config.Dataset],
    general: config.General,
    data: config.Data,
    *,
    config_dir: Path,
    size_multiple: int = 8,
    on_progress: Progress | None = None,
) -> Dataset:
    """Reads folders, captions and image headers.

    config_dir: what relative folders are relative to; size_multiple: what the sides of a training size must divide by,
    the pixels of one latent cell; on_progress(done, total) is called after each image.
    Raises one UserError with every problem found. With `data.skip_broken`, images that cannot be read are left out and
    listed in `Dataset.skipped` instead.
    """
    found = _Findings(skip_broken=data.skip_broken)
    if not datasets:
        found.problems.append("datasets: there are none. Add a [[datasets]] table with [[datasets.subsets]] in it.")
    groups = tuple(effective(DatasetOptions, table, general) for table in datasets)
    folders: list[_Folder] = []
    for index, table in enumerate(datasets):
        found.problems += sizing.problems(f"datasets[{index}]", groups[index], size_multiple)
        folders += _subsets(index, table, general, config_dir, found)
    if found.problems:  # sizes cannot be fitted to options that are wrong
        raise UserError(found.problems)
    total, done = sum(len(folder.images) for folder in folders), 0
    fitters = [sizing.fitter(options) for options in groups]
    for folder in folders:
        for name in folder.images:
            found.add(folder, name, fitters[folder.source.dataset])
            done += 1
            if on_progress is not None:
                on_progress(done, total)
        found.close(folder)
    if found.problems:
        raise UserError(found.problems)
    if not found.items:
        raise UserError("datasets: no image is left to train on; every one of them is broken")
    return Dataset(
        tuple(found.items), groups, tuple(f.source for f in folders), tuple(found.skipped), tuple(found.notes)
    )


@dataclass
class _Folder:
    """A subset with the names in its folder."""

    source: Source
    files: frozenset[str]
    images: list[str]


@dataclass
class _Findings:
    skip_broken: bool
    items: list[Item] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)  # images of the current folder that have no caption
    empty: list[str] = field(default_factory=list)  # caption files of the current folder that hold nothing
    several: list[str] = field(default_factory=list)  # caption files of which only the first line is used

    def add(self, folder: _Folder, name: str, fitter: Callable[[Size], Fit]) -> None:
        path = os.path.join(folder.source.folder, name)  # noqa: PTH118  (names may hold bytes that Path keeps as well)
        try:
            size = images.size_of(path)
            fit = fitter(size)
        except BrokenImageError as broken:
            if self.skip_broken:
                self.skipped.append(Skipped(broken.path, broken.reason))
            else:
                self.problems.append(f"{broken} (data.skip_broken = true goes on without such images)")
            return
        except UserError as error:
            self.problems.append(f"{printable(path)}: {error}")
            return
        text = self._caption(folder, name)
        self.items.append(Item(path, text, size, fit.resized, fit.corner, fit.target, folder.source))

    def _caption(self, folder: _Folder, name: str) -> tuple[str, ...]:
        options = folder.source.options
        names = captions.find(name, folder.files, options.caption_extension)
        if not names:
            self.without.append(name)
            return (options.class_tokens,)
        try:
            text = captions.read_agreeing(folder.source.folder, names)
        except UserError as error:
            self.problems += error.problems
            return ("",)
        if not text:
            self.empty.append(names[0])
            return ("",)
        if options.enable_wildcard:
            return tuple(text)
        if len(text) > 1:
            self.several.append(names[0])
        return (text[0],)

    def close(self, folder: _Folder) -> None:
        """Sums up a folder, once all its images were added."""
        where, options = folder.source.where, folder.source.options
        count = len(folder.images)
        if len(self.without) == count and not options.class_tokens:
            self.problems.append(_no_captions(folder))
        elif self.without and options.class_tokens:
            self.notes.append(
                f"{where}: missing captions: {len(self.without)} of {count} use class_tokens "
                f"{options.class_tokens!r}: {listed(self.without)}"
            )
        elif self.without:
            self.notes.append(
                f"{where}: missing captions: {len(self.without)} of {count} train with the empty caption: "
                f"{listed(self.without)}"
            )
        if self.empty:
            self.notes.append(f"{where}: {len(self.empty)} caption files are empty: {listed(self.empty)}")
        if self.several:
            self.notes.append(
                f"{where}: {len(self.several)} caption files have several lines, of which only the first is trained "
                f"(enable_wildcard = true draws one each time): {listed(self.several)}"
            )
        self.without, self.empty, self.several = [], [], []


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(printable(name) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def _no_captions(folder: _Folder) -> str:
    where, options = folder.source.where, folder.source.options
    looked = " or ".join(captions.extensions(options.caption_extension))
    hint = ""
    for other in captions.DEFAULT_EXTENSIONS:
        count = sum(bool(captions.find(name, folder.files, other)) for name in folder.images)
        if count:
            hint = f" There are {count} {other} files: set caption_extension = {other!r}."
    return (
        f"{where}: none of the {len(folder.images)} images in {printable(folder.source.folder)} has a caption "
        f"(a file of the same name ending in {looked}) and class_tokens is not set.{hint}"
    )


def _subsets(
    index: int, table: config.Dataset, general: config.General, config_dir: Path, found: _Findings
) -> list[_Folder]:
    where = f"datasets[{index}]"
    if not table.subsets:
        found.problems.append(f"{where}.subsets: there are none. Add [[datasets.subsets]] with an image_dir.")
    folders: list[_Folder] = []
    first_use: dict[str, str] = {}
    for number, subset in enumerate(table.subsets):
        place = f"{where}.subsets[{number}]"
        options = effective(SubsetOptions, subset, table, general)
        folder = (config_dir / Path(subset.image_dir).expanduser()).absolute()
        try:
            if not subset.image_dir:
                raise UserError(f"{place}.image_dir: not set. Name a folder of images.")
            earlier = first_use.setdefault(os.path.realpath(folder), place)
            if earlier != place:
                raise UserError(
                    f"{place}.image_dir: {subset.image_dir!r} is used by {earlier} already. "
                    "Remove one; to see its images more often, raise num_repeats."
                )
            files = _listing(folder, f"{place}.image_dir: {subset.image_dir!r}")
            names = image_names(files)
            if not names:
                raise UserError(
                    f"{place}.image_dir: no images in {subset.image_dir!r} (looked for {' '.join(images.EXTENSIONS)} "
                    f"in {printable(folder)}, not in folders below it). "
                    "Is the path right? It is relative to the config file."
                )
        except UserError as error:
            found.problems += error.problems
            continue
        folders.append(_Folder(Source(place, index, folder, options), files, names))
    return folders


def _listing(folder: Path, label: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except FileNotFoundError:
        raise UserError(
            f"{label} does not exist ({printable(folder)}). Is the path right? It is relative to the config file."
        ) from None
    except NotADirectoryError:
        raise UserError(f"{label} is a file, not a folder ({printable(folder)}).") from None
    except OSError as error:
        raise UserError(f"{label} cannot be read: {error.strerror or error} ({printable(folder)}).") from error


def image_names(files: Iterable[str]) -> list[str]:
    """The names that end like an image, sorted. Hidden files are none: macOS leaves ._name.jpg beside name.jpg."""
    return sorted(n for n in files if n.lower().endswith(images.EXTENSIONS) and not n.startswith("."))
