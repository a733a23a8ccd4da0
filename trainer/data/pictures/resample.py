"""Resizes and crops pictures in one go, so that only what remains is computed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.dataset import Size

Bytes = NDArray[np.uint8]  # (H, W) or (H, W, 3)

_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "linear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "cubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
}


def resize_and_crop(
    image: Image.Image, resized: Size, corner: tuple[int, int], target: Size, interpolation: str = ""
) -> Bytes:
    """Resizes to `resized` and cuts out `target` at `corner`, both (width, height).

    Without an `interpolation`: area averaging when both sides shrink, else Lanczos (kohya's rule). "area" enlarges
    bilinearly, as averages cannot.
    """
    if resized == image.size:
        return np.asarray(image.crop((*corner, corner[0] + target[0], corner[1] + target[1])))
    shrinks = image.width >= resized[0] and image.height >= resized[1]
    if shrinks and interpolation in ("", "area"):
        return _area(np.asarray(image), resized, corner, target)
    filter = _FILTERS["bilinear" if interpolation == "area" else interpolation or "lanczos"]
    across, down = image.width / resized[0], image.height / resized[1]
    left, top = corner[0] * across, corner[1] * down
    right, bottom = (corner[0] + target[0]) * across, (corner[1] + target[1]) * down
    box = (left, top, min(right, image.width), min(bottom, image.height))
    return np.asarray(image.resize(target, filter, box=box))


def _area(pixels: Bytes, resized: Size, corner: tuple[int, int], target: Size) -> Bytes:
    """Each new pixel is the mean of the area it covers, with parts of pixels counted as such (OpenCV's INTER_AREA)."""
    height, width = pixels.shape[:2]
    rows = _mean_rows(pixels.reshape(height, -1), height / resized[1], corner[1], target[1])
    columns = np.ascontiguousarray(rows.reshape(target[1], width, -1).swapaxes(0, 1)).reshape(width, -1)
    averaged = _mean_rows(columns, width / resized[0], corner[0], target[0])
    result = averaged.reshape(target[0], target[1], -1).swapaxes(0, 1)
    return np.ascontiguousarray((result + 0.5).astype(np.uint8).reshape(target[1], target[0], *pixels.shape[2:]))


def _mean_rows(values: NDArray[Any], scale: float, first: int, count: int) -> NDArray[np.float32]:
    """(N, M) -> (count, M): row i is the mean over [(first + i) * scale, (first + i + 1) * scale) of the N rows."""
    result = np.empty((count, values.shape[1]), np.float32)
    for row in range(count):
        low, high = (first + row) * scale, min((first + row + 1) * scale, len(values))
        begin, end = int(low), min(math.ceil(high), len(values))
        weights = np.ones(end - begin, np.float32)
        weights[0] -= low - begin
        weights[-1] -= end - high
        np.dot(weights / weights.sum(), values[begin:end].astype(np.float32, copy=False), out=result[row])
    return result
