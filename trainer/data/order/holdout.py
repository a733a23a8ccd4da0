"""Chooses the images that are held out of training: from seed and path alone, whole images with all their repeats."""

from __future__ import annotations

import filecmp
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.config.schema.base import changed
from trainer.config.schema.data import DatasetOptions, DataSettings, GeneralSettings
from trainer.config.schema.validation import ValidationSettings
from trainer.data.dataset import Dataset, ImageItem
from trainer.data.pictures.files import listed, printable
from trainer.data.sources.scan import scan
from trainer.errors import UserError
from trainer.randomness import derive


@dataclass(frozen=True)
class Split:
    training: Dataset
    held_out: Dataset


def split(dataset: Dataset, settings: ValidationSettings) -> Split:
    """Takes the share of every dataset that `validation.split`, or its own validation_split, says.

    An image that stands in several datasets or subsets is held out of all of them. Regularisation images always train,
    and so does the last image of a subset. Raises UserError when there are too few images.
    """
    out: set[str] = set()
    for number, options in enumerate(dataset.groups):
        share = settings.split if options.validation_split is None else options.validation_split
        if share:
            out |= _chosen(dataset, number, share, _seed(options, settings))
    if not out:
        return Split(dataset, replace(dataset, items=()))
    held: list[ImageItem] = []
    kept: list[ImageItem] = []
    for item in dataset.items:
        (held if os.path.realpath(item.path) in out else kept).append(item)
    return Split(
        replace(dataset, items=tuple(kept)),
        replace(dataset, items=tuple(i for i in held if not i.source.is_reg), notes=(), skipped=()),
    )


def _seed(options: DatasetOptions, settings: ValidationSettings) -> int:
    return settings.seed if options.validation_seed is None else options.validation_seed


def _chosen(dataset: Dataset, number: int, share: float, seed: int) -> set[str]:
    """The real paths of the images of one dataset that are held out."""
    items = [item for item in dataset.items if item.source.dataset == number and not item.source.is_reg]
    wanted = max(1, round(share * len(items)))
    left = Counter(item.source.where for item in items)
    found: set[str] = set()
    for item in in_order(items, seed):
        if len(found) == wanted:
            break
        if left[item.source.where] > 1:
            left[item.source.where] -= 1
            found.add(os.path.realpath(item.path))
    if not found:
        raise UserError(
            f"validation.split: {share:g} of {len(items)} images of datasets[{number}] cannot be held out: every "
            "subset needs an image that trains. Add images, or remove the split."
        )
    return found


def in_order(items: Sequence[ImageItem], seed: int) -> list[ImageItem]:
    """An order that depends on the seed and on each image's own name only: adding images moves no other."""
    return sorted(items, key=lambda item: derive(seed, f"validation.choice/{name_of(item)}"))


def name_of(item: ImageItem) -> str:
    """folder/file: the same on every machine, and fit to be shown to others."""
    folder, path = item.source.folder, Path(item.path)
    inside = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
    return printable(f"{folder.name}/{inside.as_posix()}")


def distinct_names(items: Sequence[ImageItem]) -> list[str]:
    """Each image's name; images of folders of one name that would share it are numbered."""
    paths: dict[str, list[str]] = {}
    for item in items:
        known = paths.setdefault(name_of(item), [])
        if item.path not in known:
            known.append(item.path)
    return [
        name if not (place := paths[name].index(item.path)) else f"{name} ({place + 1})"
        for item in items
        for name in [name_of(item)]
    ]


def copies(split: Split) -> list[tuple[str, str]]:
    """(trains, held out): files of the same bytes on both sides. Files that cannot be read are of no concern here."""
    held: dict[int, list[str]] = {}
    for item in split.held_out.items:
        held.setdefault(_size(item.path), []).append(item.path)
    alike = {item.path for item in split.training.items if _size(item.path) in held}
    return [
        (path, other)
        for path in sorted(alike)
        for other in held[_size(path)]
        if filecmp.cmp(path, other, shallow=False)
    ]


def _size(path: str) -> int:
    """Bytes; only files of one size can be copies."""
    return Path(path).stat().st_size


def check_apart(training: Dataset, held_out: Dataset) -> None:
    """Raises UserError when an image of a validation dataset trains too."""
    trained = {os.path.realpath(item.path) for item in training.items}
    both = [item.path for item in held_out.items if os.path.realpath(item.path) in trained]
    if both:
        raise UserError(f"validation.datasets: {len(both)} of its images train too: {listed(both)}. Remove them there.")


def own_images(
    training: Dataset,
    settings: ValidationSettings,
    general: GeneralSettings,
    data: DataSettings,
    *,
    config_dir: Path,
) -> Split:
    """The images of [[validation.datasets]], in sizes that the base takes. Raises UserError with every problem found in
    them."""
    elsewhere = changed(data, train_data_dir="", reg_data_dir="", class_dir="")
    try:
        found = scan(
            settings.datasets,
            general,
            elsewhere,
            config_dir=config_dir,
            size_multiple=training.rendering.size_multiple,
            cell=training.rendering.cell,
            reads_captions=training.reads_captions,
        )
    except UserError as error:
        raise UserError(
            f"validation.{p}" if p.startswith("datasets[") else f"validation.datasets: {p}" for p in error.problems
        ) from error
    check_apart(training, found)
    return Split(training, found)
