"""Chooses how one presentation shows its image: crop, mirror, colour. All chance comes from the sample's streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from random import Random

from trainer.config.schema.data import SubsetOptions
from trainer.data.dataset import ImageItem, Size
from trainer.data.pictures import buckets

Streams = Callable[[str], Random]  # the stream of this sample for a purpose


@dataclass(frozen=True, slots=True)
class Tint:
    """A weak change of colour, at most what people would not notice."""

    hue: float = 0.0  # turns of the colour circle
    gamma: float = 1.0


@dataclass(frozen=True, slots=True)
class View:
    resized: Size
    corner: tuple[int, int]  # (left, top) of the crop in the resized image
    mirrored: bool = False  # after the crop
    tint: Tint | None = None


@dataclass(frozen=True, slots=True)
class Face:
    """Where a face is, in pixels of the original image."""

    x: float  # centre
    y: float
    size: float  # the longer side


def plain(item: ImageItem, *, mirrored: bool = False) -> View:
    """The whole image, as well as it fits its bucket."""
    return View(item.resized, item.corner, mirrored)


def key(image: str, item: ImageItem, view: View) -> str:
    """What tells this view of an image, whose own key is given, from its other views."""
    marks = [" mirrored"] if view.mirrored else []
    if (view.resized, view.corner) != (item.resized, item.corner):
        marks.append(f" {view.resized} at {view.corner}")
    if view.tint is not None:
        marks.append(f" hue {view.tint.hue} gamma {view.tint.gamma}")
    return image + "".join(marks)


def changes(options: SubsetOptions) -> list[str]:
    """The options that make every presentation different, so that latents cannot be cached."""
    names = ("color_aug", "random_crop", "face_crop_aug_range")
    return [name for name in names if getattr(options, name)]


def varies(options: SubsetOptions) -> bool:
    """Whether presentations of an image differ at all."""
    return options.flip_aug or bool(changes(options))


def choose(item: ImageItem, streams: Streams) -> View:
    """The view of one presentation."""
    options = item.source.options
    resized, corner = item.resized, item.corner
    face = face_of(item.path) if options.face_crop_aug_range else None
    if face is not None and options.face_crop_aug_range is not None:
        resized, corner = around_face(item, face, options.face_crop_aug_range, streams("face"))
    if options.random_crop:
        random = streams("crop")
        corner = (random.randint(0, resized[0] - item.target[0]), random.randint(0, resized[1] - item.target[1]))
    tint = _tint(streams("colour")) if options.color_aug else None
    return View(resized, corner, is_mirrored(options, streams), tint)


def is_mirrored(options: SubsetOptions, streams: Streams) -> bool:
    return options.flip_aug and streams("flip").random() < 0.5


def face_of(path: str) -> Face | None:
    """The face that a name ends in: `..._<centre x>_<centre y>_<width>_<height>`, as kohya's face tool writes."""
    parts = PurePath(path).stem.split("_")
    if len(parts) < 5 or not all(part.isdecimal() for part in parts[-4:]):
        return None
    x, y, width, height = map(int, parts[-4:])
    return Face(x, y, max(width, height)) if width and height else None


def around_face(
    item: ImageItem, face: Face, times: tuple[float, float], random: Random
) -> tuple[Size, tuple[int, int]]:
    """Resized size and corner of a crop around a face, whose shorter side is between `times[0]` and `times[1]` as long
    as the face. It stays within the image, and never enlarges it beyond what filling the bucket needs."""
    cover = buckets.cover(item.original, item.target)
    least = cover[0] / item.original[0]
    shown = face.size * random.uniform(*times)
    scale = min(max(min(item.target) / shown, least), max(1.0, least))
    resized = (
        max(item.target[0], int(item.original[0] * scale + 0.5)),
        max(item.target[1], int(item.original[1] * scale + 0.5)),
    )
    left = min(max(int(face.x * scale) - item.target[0] // 2, 0), resized[0] - item.target[0])
    top = min(max(int(face.y * scale) - item.target[1] // 2, 0), resized[1] - item.target[1])
    return resized, (left, top)


def _tint(random: Random) -> Tint | None:
    """In a third of the cases either the hue moves by at most 16 degrees or the gamma by at most 5 %."""
    if random.random() >= 1 / 3:
        return None
    if random.random() < 0.5:
        return Tint(hue=random.uniform(-8, 8) / 180)
    return Tint(gamma=random.uniform(0.95, 1.05))
