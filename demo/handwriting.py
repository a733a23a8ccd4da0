"""Real handwriting: scikit-learn's 1,797 digits, written by 43 people, shown as pen on paper.

The 8 x 8 maps of ink are enlarged smoothly and given a pen's edge; the colours are the only thing that is invented.
Data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.printed import DIGITS, SIDE

INK = np.array((32, 44, 110), dtype=np.float64)
PAPER = np.array((250, 243, 224), dtype=np.float64)
MARGIN = 2  # pixels of blank paper on each side


@dataclass(frozen=True)
class Handwriting:
    images: tuple[Image.Image, ...]  # RGB, SIDE x SIDE
    labels: NDArray[np.int64]  # (N,)

    def __len__(self) -> int:
        return len(self.images)


def caption(digit: int) -> str:
    return f"a handwritten digit {DIGITS[digit]}"


def load() -> tuple[Handwriting, Handwriting]:
    """(what is trained on, what is held out): a tenth of every digit is held out, the same one each time."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, heldout = train_test_split(
        np.arange(len(digits.target)), test_size=0.1, random_state=0, stratify=digits.target
    )

    def take(rows: NDArray[np.int64]) -> Handwriting:
        return Handwriting(tuple(render(digits.images[row]) for row in rows), digits.target[rows])

    return take(np.sort(train)), take(np.sort(heldout))


def render(ink: NDArray[np.float64]) -> Image.Image:
    """(8, 8) ink in [0, 16] -> pen on paper."""
    large = Image.fromarray((ink / 16 * 255).astype(np.uint8)).resize((128, 128), Image.Resampling.BICUBIC)
    cover = 1 / (1 + np.exp(-14 * (np.asarray(large, dtype=np.float64) / 255 - 0.52)))  # a pen has an edge
    written = PAPER + cover[:, :, None] * (INK - PAPER)
    side = SIDE - 2 * MARGIN
    small = Image.fromarray(written.round().astype(np.uint8)).resize((side, side), Image.Resampling.BOX)
    sheet = Image.new("RGB", (SIDE, SIDE), tuple(int(c) for c in PAPER))
    sheet.paste(small, (MARGIN, MARGIN))
    return sheet
