"""UNets that fill pictures in: their further input channels are the mask and the latents of what it leaves visible."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.batch import Shown


def fills(config: Any) -> bool:
    """Whether a UNet's config is an inpainting one: noisy latents, mask and latents in, noise of the latents out."""
    given, out = int(config.get("in_channels", 4)), int(config.get("out_channels", 4))
    return given == 2 * out + 1


def joined(noisy: Tensor, shown: Shown | None) -> Tensor:
    """(B, C, h, w) -> (B, 2 C + 1, h, w), in the order of Stable Diffusion's inpainting models; the noisy latents
    alone where nothing is shown."""
    if shown is None:
        return noisy
    assert shown.latents is not None
    return torch.cat([noisy, shown.hidden.to(noisy.dtype), shown.latents.to(noisy.dtype)], dim=1)
