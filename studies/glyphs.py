"""Makes the pictures of the study: the glyphs of Noto Color Emoji (Debian: fonts-noto-color-emoji) on plain grounds.

python -m studies.glyphs FOLDER: FOLDER/train and FOLDER/reference hold different glyphs, 32 x 32 pixels, each on a few
grounds of random colours.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
SIZE = 109  # the only one that the font's pictures have
SIDE = 32
BLOCKS = ((0x203C, 0x3300), (0x1F000, 0x1FB00))  # where Unicode keeps symbols with colours
HELD_OUT = 5  # every fifth glyph is for reference


def glyphs(font: Path) -> Iterator[Image.Image]:
    """The font's pictures of single characters, RGBA, cut to what is drawn."""
    drawn = ImageFont.truetype(str(font), SIZE)
    seen: set[bytes] = set()  # a character without a picture gets that of a missing one, as all others do
    for code in (code for first, last in BLOCKS for code in range(first, last)):
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((10, 10), chr(code), font=drawn, embedded_color=True)
        box = canvas.getbbox()
        if box is None or canvas.tobytes() in seen:
            continue
        seen.add(canvas.tobytes())
        yield canvas.crop(box)


def on_ground(glyph: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Scaled into the middle of a plain square with a small margin; SIDE x SIDE, RGB."""
    scale = (SIDE - 4) / max(glyph.size)
    small = glyph.resize(
        (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale))), Image.Resampling.BOX
    )
    ground = Image.new("RGB", (SIDE, SIDE), colour)
    ground.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2), small)
    return ground


def main(
    folder: Annotated[Path, typer.Argument(help="Where the pictures go.")],
    font: Annotated[Path, typer.Option(help="Noto Color Emoji.")] = FONT,
    grounds: Annotated[int, typer.Option(min=1, help="Pictures of each glyph.")] = 3,
) -> None:
    """Make the pictures of the study."""
    if not font.is_file():
        typer.echo(f"--font: there is no {font}; Debian has it in fonts-noto-color-emoji.", err=True)
        raise typer.Exit(2)
    colours, count = random.Random(0), 0
    for index, glyph in enumerate(glyphs(font)):
        place = folder / ("train" if index % HELD_OUT else "reference")
        place.mkdir(parents=True, exist_ok=True)
        for ground in range(grounds):
            colour = (colours.randrange(256), colours.randrange(256), colours.randrange(256))
            on_ground(glyph, colour).save(place / f"{index:04d}-{ground}.png")
            count += 1
    typer.echo(f"{count:,} pictures in {folder}")


if __name__ == "__main__":
    typer.run(main)
