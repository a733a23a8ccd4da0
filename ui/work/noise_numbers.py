"""What k noise candidates do, as numbers: measured on the user's own images, or for typical latents of their size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainer import registry
from ui.draft.fields import all_fields, from_control
from ui.draft.session import Page
from ui.workspace import read_json

STAGE = "oversampling"
CANDIDATES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PIXELS = 8  # per latent cell along a side
CHANNELS = 4


@dataclass(frozen=True)
class Point:
    """One number of candidates. `pull`: how much of the image is in its noise; `acts_as`: by timestep."""

    k: int
    distance_drop: float  # percent
    alignment: float  # in sigma
    pull: float
    strength: float  # in units of the authors' nearest of 64 at 4 x 32 x 32
    acts_as: dict[str, float]
    milliseconds: float | None = None


@dataclass(frozen=True)
class Numbers:
    """`images`: how many were measured, 0 for typical latents."""

    shape: tuple[int, ...]
    images: int
    points: tuple[Point, ...]

    def at(self, k: int) -> Point | None:
        """The measured point nearest to k, on a logarithmic scale."""
        return min(self.points, key=lambda p: abs(p.k.bit_length() - k.bit_length()), default=None) if k > 1 else None


def resolution(page: Page) -> tuple[int, int]:
    """(width, height) that the shown dataset trains."""
    field = all_fields()["datasets[].resolution"]
    value = from_control(field, page.controls[field.key])
    general = from_control(all_fields()["general.resolution"], page.controls["general.resolution"])
    for found in (value, general):
        if isinstance(found, int) and 8 <= found <= 4096:
            return found, found
        if isinstance(found, list) and len(found) == 2 and all(isinstance(x, int) and 8 <= x <= 4096 for x in found):
            return found[0], found[1]
    return 512, 512


@lru_cache(maxsize=32)
def typical(width: int, height: int, k: int = 0) -> Numbers:
    """For independent numbers of variance 1, which Stable Diffusion's latents nearly are; calculated, not drawn."""
    from trainer.reports.noise.shift import REFERENCE_PULL

    plugin = registry.find("noise", STAGE)
    shape = (CHANNELS, max(1, height // PIXELS), max(1, width // PIXELS))
    dim = math.prod(shape)
    length = math.sqrt(dim)  # of a latent
    points = []
    for candidates in sorted({*CANDIDATES, *([k] if 1 < k <= 65536 else [])}):
        found = plugin.moments(plugin.Settings(**{plugin.headline: candidates}), dim, 1.0)
        square = (length - found.mean) ** 2 + found.variance + found.rest * (dim - 1)
        drop = 100 * (1 - math.sqrt(square / (2 * dim)))
        pull = found.mean / length
        points.append(Point(candidates, drop, found.mean, pull, pull / REFERENCE_PULL, {}))
    return Numbers(shape, 0, tuple(points))


def measured(report: Path) -> Numbers | None:
    """From a run's noise-report.json."""
    told = read_json(report)
    try:
        points = tuple(sorted((_point(int(k), found) for k, found in told[STAGE].items()), key=lambda p: p.k))
        return Numbers(tuple(int(n) for n in told["shape"]), int(told["images"]), points)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _point(k: int, found: dict[str, Any]) -> Point:
    return Point(
        k=k,
        distance_drop=float(found["distance_drop_percent"]),
        alignment=float(found["alignment_sigma"]),
        pull=float(found["pull"]),
        strength=float(found["strength"]),
        acts_as={str(t): float(v) for t, v in found["equivalent_timestep"].items()},
        milliseconds=float(found["milliseconds"]),
    )
