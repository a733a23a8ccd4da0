"""Draws printed characters in Pillow's own font, with a caption that says what is seen: what the base model learns."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from demo import colours
from trainer.randomness import python_random

SIDE = 32  # pixels
SCALE = 4  # drawn this many times larger, then reduced: smooth edges
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = ("C", "E", "F", "H", "K", "R", "T", "X")
# Several words stand where "handwritten" will stand, so that the model learns to look there.
STYLES = ("printed", "bold", "thin", "outlined", "tilted")
# What a caption that names no colours means: one thing, or a small model would learn colours instead of shapes.
INK, GROUND = "black", "white"
MIN_CONTRAST = 0.35


@dataclass(frozen=True)
class Drawing:
    image: Image.Image  # RGB, SIDE x SIDE
    caption: str
    label: int  # the digit, or -1 for a letter


def draw(seed: int, index: int) -> Drawing:
    """Picture `index` of an endless series; depends on nothing but its two arguments."""
    rng = python_random(seed, "printed", index)
    style = rng.choice(STYLES)
    label = rng.randrange(10) if rng.random() < 0.75 else -1
    character, name = (str(label), f"digit {DIGITS[label]}") if label >= 0 else _letter(rng)
    ink, ground = _colours(rng)
    words = [
        "an" if style[0] in "aeiou" else "a",
        style,
        "" if ink == INK else ink,
        name,
        "" if ground == GROUND else f"on {ground}",
    ]
    shades = colours.NAMED[ink].draw(rng), colours.NAMED[ground].draw(rng)
    return Drawing(_paint(_glyph(character, style, rng), *shades), " ".join(filter(None, words)), label)


def _letter(rng: random.Random) -> tuple[str, str]:
    letter = rng.choice(LETTERS)
    return letter, f"letter {letter}"


def _colours(rng: random.Random) -> tuple[str, str]:
    """Names of an ink and a ground that can be told apart by brightness."""
    names = list(colours.NAMED)
    while True:
        ink = INK if rng.random() < 0.4 else rng.choice(names)
        ground = GROUND if rng.random() < 0.65 else rng.choice(names)
        if abs(colours.NAMED[ink].brightness - colours.NAMED[ground].brightness) >= MIN_CONTRAST:
            return ink, ground


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _glyph(character: str, style: str, rng: random.Random) -> Image.Image:
    """How much ink lies where: an L image of SCALE * SIDE pixels a side, 255 = full ink."""
    canvas = SCALE * SIDE
    font = _font(SCALE * rng.randint(23, 28))
    stroke = {"bold": 1.2, "outlined": 0.8}.get(style, 0)

    def text(width: float) -> Image.Image:
        mask = Image.new("L", (canvas, canvas))
        centre = (canvas / 2, canvas / 2)
        ImageDraw.Draw(mask).text(centre, character, fill=255, font=font, anchor="mm", stroke_width=width * SCALE)
        return mask

    mask = text(stroke)
    if style == "thin":
        mask = mask.filter(ImageFilter.MinFilter(5))
    elif style == "outlined":
        mask = ImageChops.subtract(mask, text(0).filter(ImageFilter.MinFilter(3)))
    angle = rng.choice((-1, 1)) * rng.uniform(15, 25) if style == "tilted" else rng.uniform(-7, 7)
    shift = tuple(round(SCALE * rng.uniform(-1.5, 1.5)) for _ in range(2))
    return mask.rotate(angle, Image.Resampling.BICUBIC, translate=(shift[0], shift[1]))


def _paint(mask: Image.Image, ink: colours.Rgb, ground: colours.Rgb) -> Image.Image:
    large = Image.composite(Image.new("RGB", mask.size, ink), Image.new("RGB", mask.size, ground), mask)
    return large.resize((SIDE, SIDE), Image.Resampling.BOX)
