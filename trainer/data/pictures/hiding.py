"""What is hidden of a picture from a model that fills pictures in: its own mask, or an area drawn at random."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from trainer.data.dataset import ImageItem, Size
from trainer.data.pictures.render import Rendered
from trainer.data.pictures.resample import Bytes
from trainer.randomness import python_random

VERSION = 1  # of everything below that decides about an area
WHOLE = 0.25  # of the pictures are hidden as a whole, as in the training of Stable Diffusion's inpainting models
SEEN = -1  # stands for the picture with nothing hidden, where others are numbered
HIDDEN = 128  # from here on a mask hides

Draw = Callable[[ImageDraw.ImageDraw, Size, Random], None]


def takes_own(item: ImageItem) -> bool:
    """Whether its own mask is what is hidden."""
    asked = item.source.options.inpaint_mask
    return asked == "own" or (asked == "auto" and bool(item.mask or item.source.alpha_mask))


def count(item: ImageItem, drawn: int) -> int:
    """How many ways there are to hide something of an image of which `drawn` areas would be drawn; 0 = of none."""
    return min(drawn, 1) if takes_own(item) else drawn


def partly(picture: Rendered, item: ImageItem, cell: int, random: Random) -> Rendered:
    """The picture with something hidden; `mask` is 255 in hidden cells then, and 0 in all others."""
    if takes_own(item) and picture.mask is not None:
        cells = np.where(picture.mask >= HIDDEN, 255, 0).astype(np.uint8)
        return replace(picture, hidden=cells.repeat(cell, 0).repeat(cell, 1), mask=cells)
    height, width = picture.pixels.shape[:2]
    area = drawn((width, height), random)
    # As diffusers brings masks to the size of latents: the nearest pixel.
    return replace(picture, hidden=area, mask=np.ascontiguousarray(area[::cell, ::cell]))


def numbered(picture: Rendered, number: int) -> Random:
    """The stream of the area `number` of a picture: it depends on nothing else, so that keys of caches hold it all."""
    digest = hashlib.blake2b(picture.pixels.tobytes(), digest_size=8).digest()
    return python_random(0, "hidden", int.from_bytes(digest, "big"), number)


def drawn(size: Size, random: Random) -> Bytes:
    """(H, W), 255 = hidden: everything, or some boxes, ellipses or strokes."""
    if random.random() < WHOLE:
        return np.full(size[::-1], 255, np.uint8)
    canvas = Image.new("L", size)
    _KINDS[random.randrange(len(_KINDS))](ImageDraw.Draw(canvas), size, random)
    return np.asarray(canvas)


def _boxes(canvas: ImageDraw.ImageDraw, size: Size, random: Random) -> None:
    for _ in range(random.randint(1, 3)):
        canvas.rectangle(_corners(size, random), fill=255)


def _ellipses(canvas: ImageDraw.ImageDraw, size: Size, random: Random) -> None:
    for _ in range(random.randint(1, 3)):
        canvas.ellipse(_corners(size, random), fill=255)


def _corners(size: Size, random: Random) -> tuple[int, int, int, int]:
    """Of a rectangle inside the picture, its sides from a tenth to four fifths of the picture's."""
    width, height = (max(1, round(side * random.uniform(0.1, 0.8))) for side in size)
    left, top = random.randint(0, size[0] - width), random.randint(0, size[1] - height)
    return left, top, left + width - 1, top + height - 1


def _strokes(canvas: ImageDraw.ImageDraw, size: Size, random: Random) -> None:
    """Lines with round ends that wander over the picture, as a brush does."""
    for _ in range(random.randint(1, 4)):
        width = max(1, round(min(size) * random.uniform(0.05, 0.25)))
        places = [(random.uniform(0, size[0]), random.uniform(0, size[1])) for _ in range(random.randint(2, 6))]
        canvas.line(places, fill=255, width=width, joint="curve")
        for x, y in places:
            canvas.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)


_KINDS: tuple[Draw, ...] = (_boxes, _ellipses, _strokes)
