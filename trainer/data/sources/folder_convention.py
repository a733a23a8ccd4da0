"""Subsets by the names of folders: kohya's `10_ohwx man` below train_data_dir, and the classes below class_dir."""

from __future__ import annotations

import os
from pathlib import Path

from trainer.config import paths
from trainer.config.schema.data import DatasetSettings, DataSettings, SubsetSettings
from trainer.data.pictures.files import printable
from trainer.errors import UserError


def dataset(data: DataSettings, config_dir: Path) -> tuple[DatasetSettings | None, list[str]]:
    """The dataset that [data] train_data_dir and reg_data_dir describe, or None, and what a person should know.

    All its options come from [general]. Raises UserError when a folder is missing or holds no subset.
    """
    if not data.train_data_dir:
        if data.reg_data_dir:
            raise UserError("data.reg_data_dir: has no effect without data.train_data_dir.")
        return None, []
    subsets, notes = _subsets("data.train_data_dir", data.train_data_dir, config_dir, is_reg=False)
    if data.reg_data_dir:
        others, more = _subsets("data.reg_data_dir", data.reg_data_dir, config_dir, is_reg=True)
        subsets, notes = subsets + others, notes + more
    return DatasetSettings(subsets=subsets), notes


def classes(data: DataSettings, config_dir: Path) -> DatasetSettings | None:
    """The dataset of [data] class_dir, or None: a subset for each folder, whose name is its caption.

    Raises UserError when the folder is missing or holds no other.
    """
    if not data.class_dir:
        return None
    folder, names = _listed("data.class_dir", data.class_dir, config_dir)
    if not names:
        raise UserError(
            f"data.class_dir: {paths.named(data.class_dir)} holds no folders; expected one for each class. For a plain "
            "folder of images use [[datasets.subsets]] with image_dir."
        )
    return DatasetSettings(subsets=[SubsetSettings(image_dir=str(folder / n), class_tokens=n) for n in names])


def _listed(key: str, value: str, config_dir: Path) -> tuple[Path, list[str]]:
    """The folder and the names of those in it. Raises UserError."""
    folder = config_dir / Path(value).expanduser()
    try:
        return folder, sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        told = paths.problem(key, value, "folder", config_dir)
        told = told or f"{key}: {paths.named(value)} cannot be read: {error.strerror or error}."
        raise UserError(printable(told)) from error


def _subsets(key: str, value: str, config_dir: Path, *, is_reg: bool) -> tuple[list[SubsetSettings], list[str]]:
    folder, names = _listed(key, value, config_dir)
    found, notes = [], []
    for name in names:
        repeats, underscore, tokens = name.partition("_")
        if underscore and repeats.isdecimal() and int(repeats) >= 1:
            path = str(folder / name)
            found.append(SubsetSettings(image_dir=path, num_repeats=int(repeats), class_tokens=tokens, is_reg=is_reg))
        else:
            notes.append(
                f"{key}: the folder {printable(name)!r} does not train: its name does not say how often it is repeated "
                f"(as '1_{printable(name)}' would)"
            )
    if not found:
        raise UserError(
            f"{key}: {paths.named(value)} holds no folder with a name such as '10_ohwx man' (repeats, underscore, "
            "class). "
            "For a plain folder of images use [[datasets.subsets]] with image_dir."
        )
    return found, notes
