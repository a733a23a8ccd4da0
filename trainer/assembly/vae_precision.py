"""What model.vae_precision does to this run's pictures, measured on a few of them before any is encoded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.config.schema.whole import BaseConfig
from trainer.data.dataset import Dataset
from trainer.data.pictures import views
from trainer.data.pictures.files import printable
from trainer.data.pictures.render import render
from trainer.device.placement import VAE, Placement
from trainer.errors import UserError
from trainer.journal.console import Console
from trainer.protocols import Family
from trainer.run.advice import LESS_AT_ONCE, shortage_told

PICTURES = 2
LEVELS = 127.5  # of a byte, for each unit of a picture in [-1, 1]


@dataclass(frozen=True)
class Apart:
    """What a precision gives, beside float32."""

    latents: tuple[Tensor, Tensor]  # (1, C, h, w) each, times the VAE scale
    shown: tuple[Tensor, Tensor]  # (1, 3, H, W) each, decoded of the same latents

    @property
    def sound(self) -> bool:
        """Whether it makes numbers of what float32 makes numbers of."""
        both = (self.latents, self.shown)
        return all(bool(low.isfinite().all()) or not bool(exact.isfinite().all()) for low, exact in both)


def tell(config: BaseConfig, console: Console, placement: Placement, dataset: Dataset) -> None:
    """Says how far latents and pictures are from float32's. Raises UserError where the VAE does not bear the
    precision."""
    if placement.family.vae_dtype == torch.float32:
        return
    asked = f"model.vae_precision = {config.model.vae_precision!r}"
    items = list({item.path: item for item in dataset.items}.values())[:PICTURES]
    found = []
    with shortage_told("while the VAE's precisions were compared", LESS_AT_ONCE), placement.used(VAE):
        for item in items:
            pixels = render(item, views.plain(item), dataset.rendering).tensor()[None].to(placement.device)
            found.append(measure(placement.family, pixels))
            if not found[-1].sound:
                raise UserError(
                    f"{asked}: the VAE makes NaN or infinity of {printable(item.path)} in it, and not in float32; set "
                    "model.vae_precision = 'bf16' or 'fp32'."
                )
    if found:
        console.say(f"{asked}: {line(found, placement.family)}")


def measure(family: Family, pixels: Tensor) -> Apart:
    """Of a picture (1, 3, H, W) in [-1, 1] on the VAE's device."""
    asked = family.vae_dtype
    low = family.encode_images(pixels)
    try:
        family.vae_dtype = torch.float32
        exact = family.encode_images(pixels)
        shown = family.decode_latents(exact)
    finally:
        family.vae_dtype = asked
    return Apart((low, exact), (family.decode_latents(exact), shown))


def line(found: list[Apart], family: Family) -> str:
    """Beside the least noise that training mixes in, which is of the same unit."""
    latents = _apart([one.latents for one in found])
    levels = LEVELS * _apart([one.shown for one in found])
    schedule, beside = family.schedule.alphas_cumprod, ""
    if schedule is not None:
        beside = f" (the least noise that training mixes in is {float((1 / schedule[0] - 1).sqrt()):.2g})"
    return (
        f"latents of {len(found)} images are {latents:.2g} from float32's on the average{beside}; decoded pictures are "
        f"{levels:.2g} of 255 levels apart."
    )


def _apart(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """The root mean square of what is between them."""
    squares = torch.cat([(low - exact).float().square().flatten() for low, exact in pairs])
    return float(squares.mean().sqrt())
