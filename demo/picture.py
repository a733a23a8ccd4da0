"""Puts generated digits side by side: the base model above, the LoRA below, the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from demo.evaluation import PER_DIGIT
from demo.printed import DIGITS, SIDE

ZOOM = 3
ROWS = 3  # pictures of each digit
GAP = 6
LEFT = 150
TITLE = 64
BETWEEN = 24
BACKGROUND, FOREGROUND, MUTED = "#ffffff", "#222222", "#777777"


def before_after(before: Sequence[Image.Image], after: Sequence[Image.Image], note: str) -> Image.Image:
    """One labelled picture. `before` and `after` are ordered as `evaluation.digits()`."""
    cell = SIDE * ZOOM + GAP
    height = TITLE + 2 * ROWS * cell + BETWEEN + 2 * GAP
    sheet = Image.new("RGB", (LEFT + 10 * cell + GAP, height), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP * 2, 8), f'"a handwritten digit ..."   {note}', fill=FOREGROUND, font=ImageFont.load_default(18))
    for digit, name in enumerate(DIGITS):
        centre = LEFT + digit * cell + SIDE * ZOOM // 2
        pen.text((centre, TITLE - 6), name, fill=MUTED, font=ImageFont.load_default(16), anchor="ms")
    for images, label, top in (
        (before, "base model", TITLE),
        (after, "with the LoRA", TITLE + ROWS * cell + BETWEEN),
    ):
        middle = top + (ROWS * cell - GAP) // 2
        pen.text((GAP * 2, middle), label, fill=FOREGROUND, font=ImageFont.load_default(18), anchor="lm")
        for digit in range(10):
            for row in range(ROWS):
                place = (LEFT + digit * cell, top + row * cell)
                sheet.paste(_enlarged(images[digit * PER_DIGIT + row]), place)
    return sheet


def _enlarged(image: Image.Image) -> Image.Image:
    return image.resize((SIDE * ZOOM, SIDE * ZOOM), Image.Resampling.LANCZOS)
