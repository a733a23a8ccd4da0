"""Makes the pixels and the loss mask of one view of an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainer.data.dataset import ImageItem, Rendering
from trainer.data.pictures import decode
from trainer.data.pictures.files import BrokenImageError
from trainer.data.pictures.resample import Bytes, resize_and_crop
from trainer.data.pictures.views import Tint, View


@dataclass(frozen=True, slots=True)
class Rendered:
    pixels: Bytes  # (H, W, 3)
    mask: Bytes | None = None  # (h, w), 255 = inside
    hidden: Bytes | None = None  # (H, W), 255 = not shown

    def tensor(self) -> Tensor:
        """(3, H, W) float32 in [-1, 1], and 0 where it is hidden."""
        whole = to_tensor(self.pixels)
        return whole if self.hidden is None else whole * torch.from_numpy(self.hidden < 128)


def render(item: ImageItem, view: View, rendering: Rendering) -> Rendered:
    """One view of an image. Raises BrokenImageError when a file cannot be read or is another than was scanned."""
    picture = decode.load(item.path, rendering.background)
    if picture.rgb.size != item.original:
        now = picture.rgb.size
        raise BrokenImageError(item.path, f"was {item.original} when it was scanned and is {now} now")
    interpolation = item.source.options.resize_interpolation
    pixels = resize_and_crop(picture.rgb, view.resized, view.corner, item.target, interpolation)
    if view.tint is not None:
        pixels = tinted(pixels, view.tint)
    inside = _inside(item, picture)
    mask = None
    if inside is not None:
        mask = per_cell(resize_and_crop(inside, view.resized, view.corner, item.target), rendering.cell)
    if view.mirrored:
        pixels, mask = pixels[:, ::-1], None if mask is None else mask[:, ::-1]
    return Rendered(pixels, mask)


def _inside(item: ImageItem, picture: decode.DecodedImage) -> Image.Image | None:
    """The mask of the whole image: a mask file, else its transparency, else none."""
    if not item.mask:
        return picture.alpha if item.source.alpha_mask else None
    mask = decode.load_mask(item.mask)
    if mask.size != item.original:
        raise BrokenImageError(item.mask, f"is {mask.size}, but its image {item.path} is {item.original}")
    return mask


def per_cell(mask: Bytes, cell: int) -> Bytes:
    """(H, W) -> (H / cell, W / cell): the mean of each latent cell's pixels."""
    height, width = mask.shape
    blocks = mask.reshape(height // cell, cell, width // cell, cell).mean((1, 3), dtype=np.float64)
    return (blocks + 0.5).astype(np.uint8)


def tinted(pixels: Bytes, tint: Tint) -> Bytes:
    """(H, W, 3) with its hue turned and its gamma changed."""
    if tint.hue:
        hue, saturation, value = Image.fromarray(np.ascontiguousarray(pixels)).convert("HSV").split()
        turned = (np.asarray(hue).astype(np.int32) + round(tint.hue * 256)) % 256
        image = Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value))
        pixels = np.asarray(image.convert("RGB"))
    if tint.gamma != 1:
        pixels = _curve(tint.gamma)[pixels]
    return pixels


def _curve(gamma: float) -> NDArray[np.uint8]:
    return (np.linspace(0, 1, 256) ** gamma * 255 + 0.5).astype(np.uint8)


def to_tensor(pixels: Bytes) -> Tensor:
    """(H, W, 3) bytes -> (3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(127.5).sub_(1.0).contiguous()
