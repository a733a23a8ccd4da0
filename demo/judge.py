"""Reads generated digits: classifiers trained on the real ones say which digit it is and whether it looks handwritten.

Both look at a map of ink, blind to colours: a picture gets no credit for having the right paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo import printed
from demo.handwriting import MARGIN, Handwriting


@dataclass(frozen=True)
class Verdict:
    recognised: NDArray[np.bool_]  # (N,) the digit read is the digit asked for
    handwritten: NDArray[np.bool_]  # (N,) looks like handwriting rather than print

    @property
    def share_recognised(self) -> float:
        return float(self.recognised.mean())

    @property
    def share_both(self) -> float:
        return float((self.recognised & self.handwritten).mean())


class Judge:
    """Two support-vector machines: which digit (trained on handwriting only), and handwritten or printed."""

    def __init__(self, handwriting: Handwriting, *, printed_seed: int = 101, printed_count: int = 1500) -> None:
        from sklearn.svm import SVC

        self._digit = SVC(gamma="scale", C=10).fit(ink_maps(handwriting.images, 8), handwriting.labels)
        drawings = [printed.draw(printed_seed, index).image for index in range(printed_count)]
        maps = np.concatenate([ink_maps(handwriting.images, 16), ink_maps(drawings, 16)])
        written = np.arange(len(maps)) < len(handwriting)
        self._style = SVC(gamma="scale", C=10).fit(maps, written)

    def __call__(self, images: Sequence[Image.Image], digits: Sequence[int]) -> Verdict:
        """Judges pictures (RGB, of any size) that were asked to show `digits`."""
        read = self._digit.predict(ink_maps(images, 8))
        return Verdict(read == np.asarray(digits), self._style.predict(ink_maps(images, 16)).astype(bool))


def ink_maps(images: Sequence[Image.Image], side: int) -> NDArray[np.float64]:
    """(N, side * side) in [0, 1]: how far each cell's colour is from the paper's, relative to the inkiest cell.

    The paper's colour is the median of the picture's border.
    """
    return np.stack([_ink_map(image, side) for image in images])


def _ink_map(image: Image.Image, side: int) -> NDArray[np.float64]:
    sheet = image.convert("RGB").resize((printed.SIDE, printed.SIDE), Image.Resampling.BOX)
    pixels = np.asarray(sheet, dtype=np.float64)  # (SIDE, SIDE, 3)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    distance = np.linalg.norm(pixels - np.median(border, axis=0), axis=-1)  # (SIDE, SIDE)
    inside = Image.fromarray(distance[MARGIN:-MARGIN, MARGIN:-MARGIN].astype(np.float32))
    small = np.asarray(inside.resize((side, side), Image.Resampling.BOX), dtype=np.float64)
    return (small / max(small.max(), 1e-6)).ravel()
