"""Walks the dataset tables of a config and finds every image that will train, or every reason why it cannot."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer import config
from trainer.config import DatasetOptions, SubsetOptions, effective
from trainer.data import folder_convention, images, sizing
from trainer.data.buckets import Fit, Size
from trainer.data.dataset import Dataset, Item, Skipped, Source
from trainer.data.folder_source import FolderSource
from trainer.data.images import BrokenImageError, listed
from trainer.data.metadata_source import MetadataSource
from trainer.data.written import Written
from trainer.errors import UserError

Progress = Callable[[int, int], None]  # (done, total)
ImageSource = FolderSource | MetadataSource


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
    found = _Findings(data)
    tables = [*datasets, *_from_folder_names(data, config_dir, found)]
    if not tables and not found.problems:
        found.problems.append("datasets: there are none. Add a [[datasets]] table with [[datasets.subsets]] in it.")
    groups = tuple(effective(DatasetOptions, table, general) for table in tables)
    sources: list[ImageSource] = []
    for index, table in enumerate(tables):
        found.problems += sizing.problems(f"datasets[{index}]", groups[index], size_multiple)
        sources += _sources(index, table, general, config_dir, found)
    found.stop_at_problems()  # sizes cannot be fitted to options that are wrong
    total, done = sum(len(source.images) for source in sources), 0
    fitters = [sizing.fitter(options) for options in groups]
    for source in sources:
        found.begin(source)
        for path in source.images:
            found.add(source, path, fitters[source.source.dataset])
            done += 1
            if on_progress is not None:
                on_progress(done, total)
        found.close(source)
    found.stop_at_problems()
    if not found.items:
        raise UserError("datasets: no image is left to train on; every one of them is broken")
    found.check_regularisation(groups)
    return Dataset(
        tuple(found.items), groups, tuple(s.source for s in sources), tuple(found.skipped), tuple(found.notes)
    )


@dataclass
class _Findings:
    """What has come up so far."""

    data: config.Data
    items: list[Item] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)  # of the current source: images that have no caption,
    empty: list[str] = field(default_factory=list)  # images whose caption holds nothing,
    several: list[str] = field(default_factory=list)  # images whose caption has lines that are not used

    def stop_at_problems(self) -> None:
        if self.problems:
            raise UserError(self.problems)

    def begin(self, source: ImageSource) -> None:
        self.without, self.empty, self.several = [], [], []
        self.notes += source.notes()
        options = source.source.options
        for name, what in (
            ("cache_info", "sizes are read from the headers"),
            ("custom_attributes", "nothing reads it"),
        ):
            if getattr(options, name):
                self.notes.append(f"{source.source.where}: {name} has no effect: {what}")

    def add(self, source: ImageSource, path: str, fitter: Callable[[Size], Fit]) -> None:
        """Takes in one image."""
        try:
            size = images.size_of(path)
        except BrokenImageError as broken:
            if self.data.skip_broken:
                self.skipped.append(Skipped(broken.path, broken.reason))
            else:
                self.problems.append(f"{broken} (data.skip_broken = true goes on without such images)")
            return
        try:
            fit, written = fitter(size), source.written(path)
        except UserError as error:
            self.problems += error.problems
            return
        self._count(path, written)
        options = source.source.options
        weight = written.weight * options.loss_weight
        if source.source.is_reg:
            weight *= self.data.prior_loss_weight
        self.items.append(
            Item(
                path, written.captions, size, fit.resized, fit.corner, fit.target, source.source, weight, written.origin
            )
        )

    def _count(self, path: str, written: Written) -> None:
        name = os.path.basename(path)  # noqa: PTH119
        if written.origin == "missing":
            self.without.append(name)
        if written.origin == "empty":
            self.empty.append(name)
        if written.unused_lines:
            self.several.append(name)

    def close(self, source: ImageSource) -> None:
        """Sums up a source, once all its images were added."""
        where, tokens, count = source.source.where, source.source.options.class_tokens, len(source.images)
        if len(self.without) == count and not tokens:
            self.problems.append(source.no_captions())
        elif self.without:
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

    def check_regularisation(self, groups: Sequence[DatasetOptions]) -> None:
        for index in range(len(groups)):
            kinds = {item.source.is_reg for item in self.items if item.source.dataset == index}
            if kinds == {True}:
                raise UserError(
                    f"datasets[{index}]: all its images are is_reg; there is nothing that they could balance."
                )


def _from_folder_names(data: config.Data, config_dir: Path, found: _Findings) -> list[config.Dataset]:
    try:
        table, notes = folder_convention.dataset(data, config_dir)
    except UserError as error:
        found.problems += error.problems
        return []
    found.notes += notes
    return [] if table is None else [table]


def _sources(
    index: int, table: config.Dataset, general: config.General, config_dir: Path, found: _Findings
) -> list[ImageSource]:
    """The subsets of a dataset; what is wrong with them goes into `found`."""
    where = f"datasets[{index}]"
    if not table.subsets:
        found.problems.append(f"{where}.subsets: there are none. Add [[datasets.subsets]] with an image_dir.")
    if table.network_multiplier != 1 or general.network_multiplier != 1:
        found.notes.append(f"{where}: network_multiplier has no effect")
    sources: list[ImageSource] = []
    first_use: dict[tuple[str, str], str] = {}
    for number, subset in enumerate(table.subsets):
        place = f"{where}.subsets[{number}]"
        try:
            _check_new(subset, place, first_use, config_dir)
            sources.append(_source(index, place, effective(SubsetOptions, subset, table, general), subset, config_dir))
        except UserError as error:
            found.problems += error.problems
    return sources


def _check_new(subset: config.Subset, place: str, first_use: dict[tuple[str, str], str], config_dir: Path) -> None:
    if not subset.image_dir and not subset.metadata_file:
        raise UserError(f"{place}.image_dir: not set. Name a folder of images.")
    key = (os.path.realpath(config_dir / subset.image_dir), subset.metadata_file)
    earlier = first_use.setdefault(key, place)
    if earlier != place:
        name = "metadata_file" if subset.metadata_file else "image_dir"
        raise UserError(
            f"{place}.{name}: {getattr(subset, name)!r} is used by {earlier} already. "
            "Remove one; to see its images more often, raise num_repeats."
        )


def _source(index: int, place: str, options: SubsetOptions, subset: config.Subset, config_dir: Path) -> ImageSource:
    metadata = (config_dir / Path(subset.metadata_file).expanduser()).absolute() if subset.metadata_file else None
    if subset.image_dir or metadata is None:
        folder = (config_dir / Path(subset.image_dir).expanduser()).absolute()
    else:
        folder = metadata.parent
    source = Source(place, index, folder, options, is_reg=subset.is_reg)
    if metadata is None:
        return FolderSource(source, subset.image_dir)
    return MetadataSource(source, metadata, subset.image_dir)
