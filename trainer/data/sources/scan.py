"""Walks the dataset tables of a config and finds every image that will train, or every reason why it cannot."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import ImageColor

from trainer.config.schema.data import DatasetOptions, DatasetSettings, DataSettings, GeneralSettings, effective
from trainer.data.captions.written import Written
from trainer.data.dataset import WHITE, Colour, Dataset, ImageItem, Rendering, Size, Skipped
from trainer.data.pictures import files as images
from trainer.data.pictures import sizing
from trainer.data.pictures.buckets import Fit
from trainer.data.pictures.files import BrokenImageError, listed, printable
from trainer.data.sources import folder_convention
from trainer.data.sources.subsets import Opened, Subsets
from trainer.errors import UserError

Progress = Callable[[int, int], None]  # (done, total)


def scan(
    datasets: Sequence[DatasetSettings],
    general: GeneralSettings,
    data: DataSettings,
    *,
    config_dir: Path,
    size_multiple: int = 8,
    cell: int = 0,
    reads_captions: bool = True,
    keep_going: bool = False,
    on_progress: Progress | None = None,
) -> Dataset:
    """Reads folders, captions and image headers.

    config_dir: what relative folders are relative to; size_multiple: pixels that the sides of a training size must
    divide by; cell: pixels of one latent cell, if it is not the same; reads_captions: images without any are wrong;
    on_progress(done, total) is called after each image.
    Raises one UserError with every problem found. With `data.skip_broken`, images that cannot be read are left out and
    listed in `Dataset.skipped` instead; with `keep_going`, for reports, all that is wrong with single files goes to
    `Dataset.faults`.
    """
    subsets, groups = opened(datasets, general, data, config_dir=config_dir, size_multiple=size_multiple)
    background = _background(data.background, subsets)
    if subsets.problems:  # sizes cannot be fitted to options that are wrong
        raise UserError(subsets.problems)
    found = _Findings(data, keep_going, reads_captions, notes=subsets.notes)
    fitters = [sizing.fitter(options) for options in groups]
    total, done = sum(len(subset.reader.images) for subset in subsets.opened), 0
    for subset in subsets.opened:
        found.begin(subset)
        for path in subset.reader.images:
            found.add(subset, path, fitters[subset.source.dataset])
            done += 1
            if on_progress is not None:
                on_progress(done, total)
        found.close(subset)
    found.check(len(groups))
    return Dataset(
        items=tuple(found.items),
        groups=groups,
        sources=tuple(subset.source for subset in subsets.opened),
        skipped=tuple(found.skipped),
        faults=tuple(found.faults),
        notes=tuple(found.notes),
        rendering=Rendering(background, cell or size_multiple, size_multiple),
        reads_captions=reads_captions,
    )


def opened(
    datasets: Sequence[DatasetSettings],
    general: GeneralSettings,
    data: DataSettings,
    *,
    config_dir: Path,
    size_multiple: int = 8,
) -> tuple[Subsets, tuple[DatasetOptions, ...]]:
    """The subsets of all tables with what is wrong with them as a whole, and each table's options; lists folders and
    looks into no image."""
    subsets = Subsets()
    tables = [*datasets, *_from_folder_names(data, config_dir, subsets)]
    if not tables and not subsets.problems:
        subsets.problems.append("datasets: there are none. Add a [[datasets]] table with [[datasets.subsets]] in it.")
    groups = tuple(effective(DatasetOptions, table, general) for table in tables)
    for index, table in enumerate(tables):
        subsets.problems += sizing.problems(f"datasets[{index}]", groups[index], size_multiple)
        subsets.add_table(index, table, general, data, config_dir)
    return subsets, groups


def _from_folder_names(data: DataSettings, config_dir: Path, subsets: Subsets) -> list[DatasetSettings]:
    found: list[DatasetSettings] = []
    try:
        table, notes = folder_convention.dataset(data, config_dir)
        subsets.notes += notes
        found = [one for one in (table, folder_convention.classes(data, config_dir)) if one is not None]
    except UserError as error:
        subsets.problems += error.problems
    return found


def _background(name: str, subsets: Subsets) -> Colour:
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError:
        subsets.problems.append(f"data.background: {name!r} is no colour; write a name such as 'white', or '#rrggbb'.")
        return WHITE
    return red, green, blue


@dataclass
class _Findings:
    """What the images have come to so far."""

    data: DataSettings
    keep_going: bool
    reads_captions: bool = True
    items: list[ImageItem] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    faults: list[Skipped] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)  # of the current subset: images that have no caption,
    empty: list[str] = field(default_factory=list)  # images whose caption holds nothing,
    several: list[str] = field(default_factory=list)  # images whose caption has lines that are not used

    def begin(self, subset: Opened) -> None:
        self.without, self.empty, self.several = [], [], []
        self.notes += subset.notes

    def add(self, subset: Opened, path: str, fitter: Callable[[Size], Fit]) -> None:
        """Takes in one image."""
        try:
            size = images.size_of(path)
        except BrokenImageError as broken:
            if self.data.skip_broken:
                self.skipped.append(Skipped(path, broken.reason))
            else:
                line = f"{broken} (data.skip_broken = true goes on without such images)"
                self._fault(path, broken.reason, [line])
            return
        try:
            fit = fitter(size)
        except UserError as error:
            self._fault(path, str(error), [f"{printable(path)}: {error}"])
            return
        try:
            written = subset.reader.written(path)
        except UserError as error:
            self._fault(path, str(error), error.problems)
            return
        self._count(path, written)
        self.items.append(self._item(subset, path, size, fit, written))

    def _fault(self, path: str, reason: str, lines: list[str]) -> None:
        if self.keep_going:
            self.faults.append(Skipped(path, reason))
        else:
            self.problems += lines

    def _item(self, subset: Opened, path: str, size: Size, fit: Fit, written: Written) -> ImageItem:
        weight = written.weight * subset.source.options.loss_weight
        return ImageItem(
            path=path,
            captions=written.captions,
            original=size,
            resized=fit.resized,
            corner=fit.corner,
            target=fit.target,
            source=subset.source,
            weight=weight * self.data.prior_loss_weight if subset.source.is_reg else weight,
            origin=written.origin,
            mask=subset.masks.get(path, ""),
        )

    def _count(self, path: str, written: Written) -> None:
        name = os.path.basename(path)  # noqa: PTH119
        if written.origin == "missing":
            self.without.append(name)
        if written.origin == "empty":
            self.empty.append(name)
        if written.unused_lines:
            self.several.append(name)

    def close(self, subset: Opened) -> None:
        """Sums up a subset, once all its images were added."""
        where, tokens, count = subset.source.where, subset.source.options.class_tokens, len(subset.reader.images)
        if not self.reads_captions:
            return
        if len(self.without) == count and not tokens:
            self.problems.append(subset.reader.no_captions())
        elif self.without and tokens != subset.source.folder.name:  # a folder named for its class says so itself
            instead = f"use class_tokens {tokens!r}" if tokens else "train with the empty caption"
            self.notes.append(
                f"{where}: missing captions: {len(self.without)} of {count} {instead}: {listed(self.without)}"
            )
        if self.empty:
            self.notes.append(f"{where}: empty captions: {len(self.empty)} of {count}: {listed(self.empty)}")
        if self.several:
            self.notes.append(
                f"{where}: captions of several lines: {len(self.several)} of {count}, only the first line is trained "
                f"(enable_wildcard = true draws one each time): {listed(self.several)}"
            )

    def check(self, datasets: int) -> None:
        """Raises UserError with all problems that have come up."""
        if not self.problems and not self.items:
            self.problems.append("datasets: no image is left to train on; every one of them is broken")
        for index in range(datasets):
            kinds = {item.source.is_reg for item in self.items if item.source.dataset == index}
            if kinds == {True}:
                self.problems.append(
                    f"datasets[{index}]: all its images are is_reg; there are none that they could balance."
                )
        if self.problems:
            raise UserError(self.problems)
