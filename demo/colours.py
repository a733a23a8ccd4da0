"""The colours that captions name, each a small region of colour from which a picture draws its own shade."""

from __future__ import annotations

import colorsys
import random
from dataclasses import dataclass

Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class Region:
    """Ranges of hue in degrees (may be negative), saturation and value in [0, 1]."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]

    def draw(self, rng: random.Random) -> Rgb:
        return _rgb(*(rng.uniform(*span) for span in (self.hue, self.saturation, self.value)))

    @property
    def brightness(self) -> float:
        """Of its middle: luma of ITU-R BT.601 in [0, 1]."""
        return brightness(_rgb(*(sum(span) / 2 for span in (self.hue, self.saturation, self.value))))


def brightness(colour: Rgb) -> float:
    """Luma of ITU-R BT.601 in [0, 1]."""
    red, green, blue = colour
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def _rgb(hue: float, saturation: float, value: float) -> Rgb:
    red, green, blue = colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


NAMED: dict[str, Region] = {
    "red": Region((-6, 6), (0.8, 1), (0.7, 0.95)),
    "orange": Region((22, 32), (0.85, 1), (0.9, 1)),
    "yellow": Region((48, 58), (0.7, 1), (0.9, 1)),
    "green": Region((105, 145), (0.6, 1), (0.4, 0.75)),
    "blue": Region((215, 238), (0.7, 1), (0.6, 0.95)),
    "purple": Region((268, 285), (0.6, 0.9), (0.4, 0.7)),
    "pink": Region((320, 340), (0.3, 0.6), (0.9, 1)),
    "brown": Region((18, 28), (0.6, 0.8), (0.3, 0.5)),
    "black": Region((0, 360), (0, 0.2), (0, 0.12)),
    "white": Region((0, 360), (0, 0.04), (0.95, 1)),
    "grey": Region((0, 360), (0, 0.06), (0.45, 0.65)),
}

# Not named in any caption: what the autoencoder must also be able to show.
PAPER = Region((36, 52), (0.06, 0.16), (0.93, 0.99))
INKS = (
    Region((218, 236), (0.6, 0.85), (0.3, 0.55)),
    Region((0, 360), (0, 0.15), (0.05, 0.2)),
    Region((15, 30), (0.5, 0.8), (0.2, 0.4)),
    Region((-8, 8), (0.7, 0.9), (0.5, 0.8)),
)
