"""kohya's folder convention: each folder `10_ohwx man` below train_data_dir is a subset of 10 repeats."""

from __future__ import annotations

import os
from pathlib import Path

from trainer import config
from trainer.data.images import printable
from trainer.errors import UserError


def dataset(data: config.Data, config_dir: Path) -> tuple[config.Dataset | None, list[str]]:
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
    return config.Dataset(subsets=subsets), notes


def _subsets(key: str, value: str, config_dir: Path, *, is_reg: bool) -> tuple[list[config.Subset], list[str]]:
    folder = config_dir / Path(value).expanduser()
    try:
        names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise UserError(f"{key}: {value!r} cannot be read: {error.strerror or error} ({printable(folder)}).") from error
    found, notes = [], []
    for name in names:
        repeats, underscore, tokens = name.partition("_")
        if underscore and repeats.isdecimal() and int(repeats) >= 1:
            path = str(folder / name)
            found.append(config.Subset(image_dir=path, num_repeats=int(repeats), class_tokens=tokens, is_reg=is_reg))
        else:
            notes.append(
                f"{key}: the folder {printable(name)!r} does not train: its name does not say how often it is repeated "
                f"(as '1_{printable(name)}' would)"
            )
    if not found:
        raise UserError(
            f"{key}: {value!r} holds no folder with a name such as '10_ohwx man' (repeats, underscore, class). "
            "For a plain folder of images use [[datasets.subsets]] with image_dir."
        )
    return found, notes
