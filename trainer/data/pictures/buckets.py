"""Chooses the size that each image is trained at, and the resize and crop that lead there, by kohya's rules.

All sizes are (width, height) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.data.dataset import Size


@dataclass(frozen=True, slots=True)
class Fit:
    """How one image becomes its training size: resize to `resized`, then cut out `target`, its corner at `corner`."""

    target: Size
    resized: Size  # covers `target`: at least as large on both sides
    corner: tuple[int, int]  # (left, top) of the crop within `resized`; centred


def resolutions(area: int, shortest: int, longest: int, step: int) -> list[Size]:
    """All bucket sizes whose area is at most `area` and whose sides are multiples of `step` in [shortest, longest].

    Each width takes the largest height that fits, and each size comes in both orientations, so the list is sorted,
    without duplicates, and closed under swapping. sd-scripts (model_util.make_bucket_resolutions) makes the same set.
    """
    square = math.isqrt(area) // step * step
    found = {(square, square)} if square else set()
    for width in range(shortest, longest + 1, step):
        height = min(longest, area // width // step * step)
        if height >= shortest:
            found |= {(width, height), (height, width)}
    return sorted(found)


def choose(image: Size, buckets: Sequence[Size]) -> Size:
    """The bucket for an image: its own size if that is one, else the nearest aspect ratio, the first on a tie."""
    if image in buckets:
        return image
    aspect = image[0] / image[1]
    return min(buckets, key=lambda bucket: abs(bucket[0] / bucket[1] - aspect))


def fit(image: Size, target: Size) -> Fit:
    """Scales the image until it just covers `target`, then crops the centre; never pads."""
    return centred(cover(image, target), target)


def cover(image: Size, target: Size) -> Size:
    """The smallest size of the image's aspect ratio that covers `target`, rounded half up."""
    wider = image[0] / image[1] > target[0] / target[1]
    scale = target[1] / image[1] if wider else target[0] / image[0]
    # Rounding never goes below the target: the matched side comes out exact, the other one is at least as long.
    return max(target[0], int(image[0] * scale + 0.5)), max(target[1], int(image[1] * scale + 0.5))


def centred(resized: Size, target: Size) -> Fit:
    return Fit(target, resized, ((resized[0] - target[0]) // 2, (resized[1] - target[1]) // 2))


def shrink_only(image: Size, area: int, step: int) -> Fit:
    """The fit when images are never enlarged (`bucket_no_upscale`): the image's own size, or scaled down to `area`,
    cut to multiples of `step`.

    Of the two ways to round a scaled-down image, width first or height first, the one nearer to the image's aspect
    ratio is taken. A side below `step` gives a target of 0, which the caller must refuse.
    """
    resized = image if image[0] * image[1] <= area else _scaled_to(image, area, step)
    target = (resized[0] // step * step, resized[1] // step * step)
    return centred(resized, target)


def _scaled_to(image: Size, area: int, step: int) -> Size:
    aspect = image[0] / image[1]
    width = math.sqrt(area * aspect)
    by_width = _to_step(width, step)
    by_height = _to_step(area / width, step)
    if not by_width or not by_height:
        return by_width, by_height
    error_by_width = abs(by_width / max(step, _to_step(by_width / aspect, step)) - aspect)
    error_by_height = abs(_to_step(by_height * aspect, step) / by_height - aspect)
    if error_by_width < error_by_height:
        return by_width, int(by_width / aspect + 0.5)
    return int(by_height * aspect + 0.5), by_height


def _to_step(length: float, step: int) -> int:
    return int(length + 0.5) // step * step
