"""The pictures of a folder, of its folders too, decoded in one size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainer.data.pictures.files import listed
from trainer.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TOGETHER = 64


def files(folder: Path, most: int, seed: int, where: str) -> list[Path]:
    """At most so many, 0 = all, chosen by the seed. Raises UserError for a folder that is not there."""
    if not folder.is_dir():
        raise UserError(f"{where}: there is no folder {str(folder)!r}.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not most or len(found) <= most:
        return found
    chosen = np.random.default_rng(seed).choice(len(found), most, replace=False)
    return [found[index] for index in sorted(chosen)]


def batches(
    paths: Sequence[Path], side: int, on_progress: Callable[[int], None] = lambda done: None
) -> Iterator[Tensor]:
    """(B, 3, side, side) float32 in [0, 1]: squeezed to a square by Pillow's bicubic filter, which does not alias.

    Raises UserError for files that cannot be read.
    """
    for start in range(0, len(paths), TOGETHER):
        some = paths[start : start + TOGETHER]
        yield torch.stack([_read(path, side) for path in some])
        on_progress(start + len(some))


def _read(path: Path, side: int) -> Tensor:
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            if small.size != (side, side):
                small = small.resize((side, side), Image.Resampling.BICUBIC)
            return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{listed([path.name])}: cannot be read as a picture ({error}).") from None
