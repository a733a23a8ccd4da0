"""Reads image files: sizes from headers, pixels as RGB, resized and cropped."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from trainer.data.buckets import Size
from trainer.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl", ".gif")
# Formats that people have beside these and that train nothing: to be named.
UNREAD = (".tif", ".tiff", ".heic", ".heif", ".jfif", ".jp2", ".tga", ".psd", ".svg", ".dng", ".cr2", ".nef", ".arw")
ORIENTATION = 0x0112  # the EXIF tag
SHOWN = 5  # how many names a message lists
SIDEWAYS = (5, 6, 7, 8)  # its values that exchange width and height

Pixels = NDArray[np.uint8]  # (H, W, 3)

# A truncated image is an error, whatever another library set before.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# Hints about odd metadata and large pictures; what matters raises. Here, because catch_warnings is not for threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BrokenImageError(UserError):
    """An image that cannot be used; `reason` says why, the message names the file too."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{printable(path)}: {reason}")
        self.path = path
        self.reason = reason


def printable(path: str | Path) -> str:
    """A path that any console can show: bytes that are not UTF-8 come out as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(printable(name) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """The file as a Pillow image, with everything that can go wrong inside turned into BrokenImageError."""
    try:
        if Path(path).stat().st_size == 0:
            raise BrokenImageError(path, "the file is empty (0 bytes)")
        with Image.open(path) as image:
            yield image
    except UnidentifiedImageError as error:
        raise BrokenImageError(path, "not an image, or of a format that Pillow does not know") from error
    except Image.DecompressionBombError as error:
        raise BrokenImageError(path, f"too many pixels to be safe ({error})") from error
    except OSError as error:
        raise BrokenImageError(path, f"cannot be read: {error.strerror or error}") from error
    except (SyntaxError, ValueError, EOFError, struct.error, KeyError, IndexError, OverflowError, MemoryError) as error:
        # Pillow's decoders raise all of these on damaged files.
        raise BrokenImageError(path, f"damaged: {error}") from error


def size_of(path: str) -> Size:
    """(width, height) as the image will be seen, from the header only.

    Raises BrokenImageError, also for a truncated file where the format tells it without decoding (JPEG, PNG, WebP).
    """
    with _opened(path) as image:
        width, height = image.size
        if min(width, height) < 1:
            raise BrokenImageError(path, f"has no pixels ({width} x {height})")
        turned = _orientation(image) in SIDEWAYS
        kind = image.format
    with Path(path).open("rb") as file:
        if not _complete(file, kind):
            raise BrokenImageError(path, f"truncated: the end of the {kind} data is missing")
    return (height, width) if turned else (width, height)


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        # Pillow would decode the whole picture to look for a late EXIF chunk.
        return 1
    return int(image.getexif().get(ORIENTATION, 1))


def _complete(file: BinaryIO, kind: str | None) -> bool:
    """Whether the file's end is there, as far as the format tells it cheaply."""
    length = file.seek(0, os.SEEK_END)
    if kind in ("JPEG", "MPO"):
        # Cameras and tools append padding or metadata after the end marker: look a little further back.
        file.seek(max(0, length - 65_536))
        return b"\xff\xd9" in file.read()
    if kind == "PNG":
        file.seek(max(0, length - 65_536))
        return b"IEND" in file.read()
    if kind == "WEBP":
        file.seek(4)
        declared = int.from_bytes(file.read(4), "little")
        return length >= declared + 8
    return True


def load(path: str, *, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """The picture as RGB, turned as its EXIF says, transparency laid over `background`. Raises BrokenImageError."""
    with _opened(path) as image:
        image.load()
        return _to_rgb(_upright(image), background)


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow clips 16-bit grey at 255 instead of scaling it.
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, (*background, 255))
        return Image.alpha_composite(paper, rgba).convert("RGB")
    return image.convert("RGB")


def resize_and_crop(image: Image.Image, resized: Size, corner: tuple[int, int], target: Size) -> Pixels:
    """Resizes to `resized` and cuts out `target` at `corner`: area averaging when both sides shrink, else Lanczos.

    Only what remains is computed, so that a 1 x 10,000 picture costs no more than any other.
    """
    shrinks = image.width >= resized[0] and image.height >= resized[1]
    filter = Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS
    across, down = image.width / resized[0], image.height / resized[1]
    left, top = corner[0] * across, corner[1] * down
    box = (left, top, min(left + target[0] * across, image.width), min(top + target[1] * down, image.height))
    return np.asarray(image.resize(target, filter, box=box))


def to_tensor(pixels: Pixels) -> Tensor:
    """(H, W, 3) bytes -> (3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(127.5).sub_(1.0).contiguous()
