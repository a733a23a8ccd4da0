"""Puts pictures of prompts (rows) by strengths of a LoRA (columns) on one sheet, and finds a name for its file."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

GAP, LINE, LETTERS = 4, 18, 6.6  # pixels: between pictures, height of a text line, width of a letter
MOST_LINES = 3  # of a prompt
NARROWEST = 220  # pixels of a sheet, so that prompts can be read


def grid(columns: Sequence[Sequence[Image.Image]], labels: Sequence[str], prompts: Sequence[str]) -> Image.Image:
    """Pictures side by side, labels above columns and prompts above rows. All must have one size in a row."""
    font = ImageFont.load_default(13)
    width = max(math.ceil(max(font.getlength(label) for label in labels)), *(p.width for c in columns for p in c)) + GAP
    total = max(len(columns) * width, NARROWEST)
    texts = [_wrapped(prompt, total) for prompt in prompts]
    heights = [max(column[row].height for column in columns) for row in range(len(prompts))]
    rows = zip(texts, heights, strict=True)
    sheet = Image.new("RGB", (total, LINE + GAP + sum(LINE * len(t) + h + 2 * GAP for t, h in rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, label in enumerate(labels):
        pen.text((index * width + 2, 2), label, fill="black", font=font)
    top = LINE + GAP
    for row, (lines, height) in enumerate(zip(texts, heights, strict=True)):
        for line in lines:
            pen.text((2, top), line, fill=(70, 70, 70), font=font)
            top += LINE
        for index, column in enumerate(columns):
            sheet.paste(column[row], (index * width, top))
        top += height + 2 * GAP
    return sheet


def _wrapped(prompt: str, width: int) -> list[str]:
    letters = max(12, int(width / LETTERS))
    return textwrap.wrap(prompt or "(empty prompt)", letters, max_lines=MOST_LINES, placeholder=" ...")


def free_name(folder: Path, stem: str = "sample") -> Path:
    """stem-0001.png and so on: the number after the highest that is there."""
    pattern = re.compile(rf"{re.escape(stem)}-(\d+)\.png")
    taken = [int(found[1]) for file in folder.glob("*.png") if (found := pattern.fullmatch(file.name))]
    return folder / f"{stem}-{max(taken, default=0) + 1:04d}.png"
