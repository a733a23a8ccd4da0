"""Looks at every image file of a dataset once: whether it decodes, what it resembles, a thumbnail of it."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.cache.ahead import in_order
from trainer.data.dataset import ImageItem
from trainer.data.pictures import decode
from trainer.data.pictures.files import BrokenImageError

SIDE = 112  # pixels of a thumbnail's longer side
WORKERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class FileLook:
    """What one file showed."""

    broken: str = ""  # why it cannot be used
    content: bytes = b""  # hash of the file
    shape: int = 0  # 128-bit perceptual hash
    tone: int = 0  # mean brightness, 0 to 255
    thumbnail: bytes = b""  # WebP
    mask: bytes = b""  # the loss mask in small, WebP
    inside: float | None = None  # share of the image that its mask lets train


def at(items: Sequence[ImageItem], *, thumbnails: int, workers: int = WORKERS) -> Iterator[FileLook]:
    """A look at each item, in order; the first `thumbnails` of them with a picture."""
    jobs = ((item, index < thumbnails) for index, item in enumerate(items))
    yield from in_order(lambda job: look(*job), jobs, workers=workers, window=8 * max(1, workers))


def look(item: ImageItem, with_thumbnail: bool) -> FileLook:
    try:
        content = hashlib.blake2b(Path(item.path).read_bytes(), digest_size=16).digest()
        picture = decode.load(item.path, at_least=2 * SIDE)
        mask = decode.load_mask(item.mask) if item.mask else picture.alpha if item.source.alpha_mask else None
    except BrokenImageError as error:
        return FileLook(broken=str(error) if error.path != item.path else error.reason)
    except OSError as error:
        return FileLook(broken=f"cannot be read: {error.strerror or error}")
    small = _small(picture.rgb)
    shape, tone = fingerprint(small)
    return FileLook(
        content=content,
        shape=shape,
        tone=tone,
        thumbnail=_webp(small) if with_thumbnail else b"",
        mask=_webp(_small(mask)) if mask is not None and with_thumbnail else b"",
        inside=None if mask is None else float(np.asarray(mask).mean()) / 255,
    )


def fingerprint(image: Image.Image) -> tuple[int, int]:
    """A perceptual hash of 128 bits (is each of 8 x 8 cells brighter than its right, and its lower neighbour?) and the
    mean brightness. Scaling, compression and slight changes of tone move few bits."""
    grey = image.convert("L")
    across: NDArray[np.int16] = np.asarray(grey.resize((9, 8), Image.Resampling.BOX)).astype(np.int16)
    down: NDArray[np.int16] = np.asarray(grey.resize((8, 9), Image.Resampling.BOX)).astype(np.int16)
    bits = np.concatenate([(across[:, 1:] > across[:, :-1]).ravel(), (down[1:] > down[:-1]).ravel()])
    return int.from_bytes(np.packbits(bits).tobytes(), "big"), round(float(across.mean()))


def _small(image: Image.Image) -> Image.Image:
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)


def _webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=55, method=0)
    return buffer.getvalue()
