"""Opens image files: sizes from headers, and a name for everything that can be wrong with a file."""

from __future__ import annotations

import importlib
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from trainer.data.dataset import Size
from trainer.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl", ".gif")
# Formats that people have beside these and that train nothing: to be named.
UNREAD = (".tif", ".tiff", ".heic", ".heif", ".jfif", ".jp2", ".tga", ".psd", ".svg", ".dng", ".cr2", ".nef", ".arw")
ORIENTATION = 0x0112  # the EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # its values that exchange width and height
SHOWN = 5  # how many names a message lists
TAIL = 65_536  # bytes at the end of a file in which its end mark must be: some tools append metadata
# What Pillow's decoders and plugins raise on damaged files.
DAMAGED = (
    SyntaxError, ValueError, EOFError, struct.error, KeyError, IndexError, OverflowError, MemoryError, RuntimeError
)  # fmt: skip

# A truncated image is an error, whatever another library set before.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# Hints about odd metadata and large pictures; what matters raises. Here, because catch_warnings is not for threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
# JPEG XL, where its plugin is installed; Pillow learns of it by this import alone.
with suppress(ImportError):
    importlib.import_module("pillow_jxl")


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
def opened(path: str) -> Iterator[Image.Image]:
    """The file as a Pillow image, with everything that can go wrong inside turned into BrokenImageError."""
    try:
        status = Path(path).stat()
        if not os.path.isfile(path):  # noqa: PTH113  (a second stat, but only strings are kept of 100,000 images)
            raise BrokenImageError(path, "is not a file")
        if status.st_size == 0:
            raise BrokenImageError(path, "the file is empty (0 bytes)")
        with Image.open(path) as image:
            yield image
    except UnidentifiedImageError as error:
        raise BrokenImageError(path, _unknown(path)) from error
    except Image.DecompressionBombError as error:
        raise BrokenImageError(path, f"too many pixels to be safe ({error})") from error
    except OSError as error:
        raise BrokenImageError(path, f"cannot be read: {error.strerror or error}") from error
    except DAMAGED as error:
        raise BrokenImageError(path, f"damaged: {str(error).strip().partition(chr(10))[0]}") from error


def _unknown(path: str) -> str:
    if path.lower().endswith(".jxl") and ".jxl" not in Image.registered_extensions():
        return "JPEG XL needs a plugin that is not installed: pip install pillow-jxl-plugin"
    return "not an image, or of a format that Pillow does not know"


def size_of(path: str) -> Size:
    """(width, height) as the image will be seen, from the header only.

    Raises BrokenImageError, also for a truncated file where the format tells it without decoding (JPEG, PNG, WebP).
    """
    with opened(path) as image:
        width, height = image.size
        if min(width, height) < 1:
            raise BrokenImageError(path, f"has no pixels ({width} x {height})")
        with Path(path).open("rb") as file:
            if not _complete(file, image.format):
                raise BrokenImageError(path, f"truncated: the end of the {image.format} data is missing")
        return (height, width) if orientation(image, path) in SIDEWAYS else (width, height)


def orientation(image: Image.Image, path: str) -> int:
    """The EXIF orientation, 1 to 8, without decoding the picture."""
    if image.format != "PNG" or "exif" in image.info:
        exif = image.getexif()
    else:
        # Pillow would decode the whole picture to look for a chunk behind it.
        with Path(path).open("rb") as file:
            exif = Image.Exif()
            exif.load(_png_chunk(file, b"eXIf"))
    found = exif.get(ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def _png_chunk(file: BinaryIO, wanted: bytes) -> bytes:
    """The data of the first chunk of a type, or nothing. A chunk is length, type, data, checksum (PNG 1.2, 3.2)."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == wanted:
            return file.read(length)
        file.seek(length + 4, os.SEEK_CUR)
    return b""


def _complete(file: BinaryIO, kind: str | None) -> bool:
    """Whether the file's end is there, as far as the format tells it cheaply."""
    length = file.seek(0, os.SEEK_END)
    if kind in ("JPEG", "MPO", "PNG"):
        file.seek(max(0, length - TAIL))
        return (b"IEND" if kind == "PNG" else b"\xff\xd9") in file.read()
    if kind == "WEBP":
        file.seek(4)
        return length >= int.from_bytes(file.read(4), "little") + 8
    return True
