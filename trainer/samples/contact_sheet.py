"""Puts the samples of one prompt, drawn at different steps, side by side on one picture."""

from __future__ import annotations

import math
import re
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from trainer.files.atomic import write_file

SIDE = 256  # longest side of a picture on the sheet
COLUMNS = 6
MOST = 48  # pictures on one sheet; of more, evenly chosen ones
GAP, LINE, LETTERS = 8, 18, 6.6  # pixels: between pictures, height of a text line, width of a letter
PAPER, INK = (255, 255, 255), (40, 40, 40)

_NAME = re.compile(r"step-(\d+)-(\d+)\.png")


def write(samples: Path, index: int, prompt: str, target: Path) -> None:
    """Draws sheet `index` anew from all its pictures in the folder `samples`."""
    files = sorted(
        (int(found[1]), file)
        for file in samples.glob(f"step-*-{index:02d}.png")
        if (found := _NAME.fullmatch(file.name)) is not None
    )
    if files:
        picture = sheet(_spread(files), prompt)
        write_file(target, lambda temporary: picture.save(temporary, format="PNG"))


def _spread(files: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """At most `MOST`, the first and the last among them."""
    if len(files) <= MOST:
        return files
    return [files[round(i * (len(files) - 1) / (MOST - 1))] for i in range(MOST)]


def sheet(files: list[tuple[int, Path]], prompt: str) -> Image.Image:
    """(step, picture file) of each cell."""
    pictures = [(step, _small(file)) for step, file in files]
    width = max(picture.width for _, picture in pictures)
    height = max(picture.height for _, picture in pictures) + LINE
    columns = min(COLUMNS, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    total = GAP + columns * (width + GAP)
    heading = textwrap.wrap(prompt or "(empty prompt)", max(12, int((total - 2 * GAP) / LETTERS)), max_lines=3)
    top = GAP + LINE * len(heading)
    result = Image.new("RGB", (total, top + rows * (height + GAP)), PAPER)
    pen, font = ImageDraw.Draw(result), ImageFont.load_default(size=13)
    for number, line in enumerate(heading):
        pen.text((GAP, GAP // 2 + number * LINE), line, fill=INK, font=font)
    for place, (step, picture) in enumerate(pictures):
        left, upper = GAP + place % columns * (width + GAP), top + place // columns * (height + GAP)
        pen.text((left, upper), f"step {step}", fill=INK, font=font)
        result.paste(picture, (left, upper + LINE))
    return result


def _small(file: Path) -> Image.Image:
    """Large pictures are reduced, tiny ones enlarged by whole pixels."""
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    longest = max(picture.size)
    if longest <= SIDE // 2:
        return picture.resize((picture.width * (SIDE // 2 // longest), picture.height * (SIDE // 2 // longest)), 0)
    picture.thumbnail((SIDE, SIDE))
    return picture
