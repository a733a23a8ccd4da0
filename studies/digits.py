"""Makes the pictures of the study of LoRAs: the demo's real handwriting, twice as large.

python -m studies.digits FOLDER: FOLDER/train with captions and FOLDER/reference hold different digits, 64 x 64 pixels,
which the demo's base turns into latents of 4 x 32 x 32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from demo import handwriting

SIDE = 64


def main(folder: Annotated[Path, typer.Argument(help="Where the pictures go.")]) -> None:
    """Make the pictures of the study of LoRAs."""
    for name, digits in zip(("train", "reference"), handwriting.load(), strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index, (image, digit) in enumerate(zip(digits.images, digits.labels, strict=True)):
            image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / name / f"{index:04d}.png")
            (folder / name / f"{index:04d}.txt").write_text(handwriting.caption(int(digit)) + "\n", encoding="utf-8")
        typer.echo(f"{len(digits.images):,} pictures in {folder / name}")


if __name__ == "__main__":
    typer.run(main)
