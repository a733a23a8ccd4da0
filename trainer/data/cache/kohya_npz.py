"""Reads the latents that kohya's scripts leave beside images (`<stem>_<W>x<H>_sd.npz`, `..._sdxl.npz`)."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.data.cache.encode import Stored
from trainer.data.dataset import ImageItem, Rendering
from trainer.data.pictures.render import per_cell


@dataclass(frozen=True, slots=True)
class KohyaLatents:
    """What has to be known to use them. That they were made by the VAE of this run cannot be known."""

    ending: str  # of the files: "_sd.npz" or "_sdxl.npz"
    scale: float  # of the VAE: the files hold unscaled samples

    def file(self, item: ImageItem) -> Path:
        width, height = item.original
        stem = os.path.splitext(item.path)[0]  # noqa: PTH122
        return Path(f"{stem}_{width:04d}x{height:04d}{self.ending}")

    def read(self, item: ImageItem, mirrored: bool, rendering: Rendering) -> Stored | None:
        """The latents of an image, or None where there are none that fit: made for another training size, older than
        the image, or without the mirror image or mask that is needed."""
        path = self.file(item)
        try:
            if path.stat().st_mtime < Path(item.path).stat().st_mtime:
                return None
            with np.load(path) as arrays:
                return self._fitting(arrays, item, mirrored, rendering)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def _fitting(self, arrays: Any, item: ImageItem, mirrored: bool, rendering: Rendering) -> Stored | None:
        name = "latents_flipped" if mirrored else "latents"
        if name not in arrays or tuple(arrays["original_size"]) != item.original:
            return None
        latents = torch.from_numpy(arrays[name].astype(np.float32))  # (C, h, w)
        width, height = item.target
        if latents.shape[1:] != (height // rendering.cell, width // rendering.cell):
            return None
        mask = None
        if item.mask:
            return None  # kohya caches no masks of files
        if item.source.alpha_mask:
            if "alpha_mask" not in arrays or arrays["alpha_mask"].shape != (height, width):
                return None
            cells = per_cell((arrays["alpha_mask"] * 255 + 0.5).astype(np.uint8), rendering.cell)
            mask = torch.from_numpy(np.ascontiguousarray(cells[:, ::-1] if mirrored else cells))
        return Stored(latents * self.scale, None, mask)
