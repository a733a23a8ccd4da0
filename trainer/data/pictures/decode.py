"""Decodes an image file to 8-bit sRGB and, where it has one, its transparency."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms, ImageOps

from trainer.data.dataset import WHITE, Colour
from trainer.data.pictures.files import BrokenImageError, opened, orientation


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An upright picture. `alpha`: its transparency (mode L, 255 = opaque), of the same size, or None."""

    rgb: Image.Image
    alpha: Image.Image | None = None


def load(path: str, background: Colour = WHITE, *, at_least: int = 0) -> DecodedImage:
    """The first frame, turned as its EXIF says, in sRGB, laid over `background` where it is transparent.

    With `at_least` (pixels of a side), JPEGs may come out smaller by 2, 4 or 8, which is faster.
    Raises BrokenImageError.
    """
    with opened(path) as image:
        if at_least and image.format == "JPEG":
            image.draft(None, (at_least, at_least))
        image.load()
        upright = image if orientation(image, path) == 1 else ImageOps.exif_transpose(image)
        return _picture(_eight_bits(upright), image.info.get("icc_profile"), background)


def load_mask(path: str) -> Image.Image:
    """Mode L: the red channel (kohya's rule; grey pictures are the same in all), or the opacity of what a program has
    cut out (rembg's usual output). Raises BrokenImageError."""
    found = load(path, (0, 0, 0))
    if found.alpha is not None and np.asarray(found.alpha).min() < 255:
        return found.alpha
    return found.rgb.getchannel("R")


def check(path: str) -> str | None:
    """Why a file cannot be decoded, or None."""
    try:
        load(path)
    except BrokenImageError as broken:
        return broken.reason
    return None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits scaled to 8; Pillow would clip it."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64) / 257  # 65535 / 255
        return Image.fromarray((values + 0.5).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray((np.asarray(image) * 255 + 0.5).clip(0, 255).astype(np.uint8))
    return image


def _picture(image: Image.Image, profile: bytes | None, background: Colour) -> DecodedImage:
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    rgb = _to_srgb(image, profile)
    if alpha is None:
        return DecodedImage(rgb)
    return DecodedImage(Image.composite(rgb, Image.new("RGB", rgb.size, background), alpha), alpha)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        transform = _transform(profile, image.mode)
        if transform is not None:
            converted = ImageCms.applyTransform(image, transform)
            assert converted is not None  # only in-place calls return nothing
            return converted
    return image.convert("RGB")


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From an embedded colour profile to sRGB; None for sRGB itself, and for a profile that does not fit the picture,
    which every viewer ignores."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if mode == "RGB" and "srgb" in (ImageCms.getProfileDescription(source) or "").lower():
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
