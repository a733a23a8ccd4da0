"""Draws coloured paper, blank or with random pen strokes: what the autoencoder sees besides printed characters.

It contains no handwriting, only what handwriting is made of, so that its colours survive the autoencoder.
"""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

from demo import colours
from demo.printed import SCALE, SIDE
from trainer.randomness import python_random


def draw(seed: int, index: int) -> Image.Image:
    """Sheet `index` of an endless series: RGB, SIDE x SIDE."""
    rng = python_random(seed, "paper", index)
    plain = rng.random() < 0.4
    ground = (rng.choice(list(colours.NAMED.values())) if plain else colours.PAPER).draw(rng)
    sheet = Image.new("RGB", (SCALE * SIDE, SCALE * SIDE), ground)
    if not plain:
        ink = rng.choice(colours.INKS).draw(rng)
        for _ in range(rng.randint(0, 3)):
            _stroke(ImageDraw.Draw(sheet), ink, rng)
    return sheet.resize((SIDE, SIDE), Image.Resampling.BOX)


def _stroke(pen: ImageDraw.ImageDraw, ink: colours.Rgb, rng: random.Random) -> None:
    """A cubic Bezier curve through four random points, drawn with a round nib."""
    points = [(rng.uniform(0, SCALE * SIDE), rng.uniform(0, SCALE * SIDE)) for _ in range(4)]
    radius = SCALE * rng.uniform(0.6, 2)
    for step in range(101):
        t = step / 100
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        x, y = (sum(w * p[axis] for w, p in zip(weights, points, strict=True)) for axis in (0, 1))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
