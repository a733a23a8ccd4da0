"""Trains the demo's autoencoder: 32 x 32 pixels <-> 4 x 16 x 16 latents.

A factor of 2 instead of Stable Diffusion's 8 gives 1,024 numbers a picture. With fewer, the noise that Noise
Oversampling chooses would hold so much of the picture that it does harm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from trainer.randomness import generator

CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 2,
    "mid_block_add_attention": False,
    "sample_size": 32,
}
KL_WEIGHT = 1e-4
SPREAD = 3.0


@dataclass(frozen=True)
class VaeRecipe:
    steps: int = 3000
    batch: int = 16
    lr: float = 2e-3
    warmup: int = 50
    balance: float = 0.5  # 0: latent channels as they come, 1: all of equal variance
    balanced_on: int = 2048  # pictures
    seed: int = 0


def to_pixels(images: list[Image.Image]) -> Tensor:
    """RGB images of one size -> (N, 3, H, W) float32 in [-1, 1], as diffusers' VAEs take them."""
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


def train(pixels: Tensor, recipe: VaeRecipe, report: Callable[[int, float], None]) -> Any:
    """A trained `AutoencoderKL` whose latents of `pixels` have mean 0 and mean variance 1.

    pixels: (N, 3, H, W) in [-1, 1]. `report(step, loss)` is called now and then.
    """
    vae = _fresh(recipe.seed)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, recipe))
    for step in range(recipe.steps):
        rng = generator(recipe.seed, "vae", step)
        batch = pixels[torch.randint(len(pixels), (recipe.batch,), generator=rng)]
        # Any colour may become any other: the ink's colour must not depend on the shapes seen with it.
        inverted = torch.rand(recipe.batch, 3, 1, 1, generator=rng) < 0.25
        batch = torch.where(inverted, -batch, batch)[:, torch.randperm(3, generator=rng)]
        loss = _loss(vae, batch, rng, anchor=_anchor(step / recipe.steps))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            report(step + 1, loss.item())
    vae.eval().requires_grad_(False)
    _balance(vae, pixels[: recipe.balanced_on], recipe.balance)
    vae.register_to_config(scaling_factor=1.0)
    return vae


def _fresh(seed: int) -> Any:
    """An untrained autoencoder that says little noise: with the usual start the sampling noise drowns the colours."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae: Any = AutoencoderKL(**CONFIG)
    log_variance = slice(CONFIG["latent_channels"], None)
    with torch.no_grad():
        vae.encoder.conv_out.bias[log_variance] -= 6
        vae.quant_conv.bias[log_variance] -= 6
        vae.quant_conv.weight[log_variance] *= 0.1
        for last in (vae.encoder.mid_block.resnets[-1], vae.decoder.up_blocks[-1].resnets[-1]):
            # The group norm that follows divides by the spread of a group's channels. A constant spread, larger than
            # the picture's own, lets the shade of a flat picture through.
            last.conv2.bias += SPREAD * (1 - 2 * (torch.arange(len(last.conv2.bias)) % 2))
    return vae


def _loss(vae: Any, pixels: Tensor, rng: torch.Generator, anchor: float) -> Tensor:
    """Absolute and squared error of the reconstruction, the KL divergence to a standard normal, and the anchor.

    All are means per number.
    """
    posterior = vae.encode(pixels).latent_dist
    shown = vae.decode(posterior.sample(rng)).sample
    divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    error = F.l1_loss(shown, pixels) + 0.5 * F.mse_loss(shown, pixels)
    small = F.avg_pool2d(pixels, 2)  # (B, 3, h, w)
    return error + KL_WEIGHT * divergence + anchor * F.mse_loss(posterior.mean[:, :3], small)


def _anchor(progress: float) -> float:
    """Weight of the pull of three latent channels towards the colours of a smaller picture, at `progress` in [0, 1].

    Without it, brightness takes all channels at first, and colours come only after thousands of steps. It fades, so
    that the channels are free to hold detail.
    """
    return max(0.02, 1 - 2 * progress)


def _cosine(step: int, recipe: VaeRecipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / (recipe.steps - recipe.warmup)))


@torch.no_grad()
def _balance(vae: Any, pixels: Tensor, power: float) -> None:
    """Raises the weaker directions among the latent channels, by the 1x1 convolutions on both sides of the latents.

    Afterwards the mean is 0 and the mean variance 1 over `pixels`, and a direction that had the share s of the variance
    has a share in proportion to s^(1 - power). Brightness would else have nearly all of it, and diffusion would take
    colour for noise; with power 1 it would spend most of its effort on detail that nobody sees.
    """
    channels = CONFIG["latent_channels"]
    posteriors = [vae.encode(chunk).latent_dist for chunk in pixels.split(256)]
    cells = torch.cat([p.mean for p in posteriors]).double().transpose(0, 1).flatten(1)  # (C, all cells)
    stated = torch.cat([p.var for p in posteriors]).double().mean(dim=(0, 2, 3))  # (C,) the encoder's own variance
    mean = cells.mean(dim=1)
    variances, directions = torch.linalg.eigh(torch.cov(cells))
    gains = variances.pow(-power / 2)
    gains /= (variances * gains.square()).mean().sqrt()
    forth = directions @ torch.diag(gains) @ directions.T  # symmetric: the channels keep their meaning
    back = torch.linalg.inv(forth)

    enter, leave = vae.quant_conv, vae.post_quant_conv
    inwards, outwards = enter.weight[:channels, :, 0, 0].double(), leave.weight[:, :, 0, 0].double()
    enter.bias[:channels] = (forth @ (enter.bias[:channels].double() - mean)).float()
    enter.weight[:channels, :, 0, 0] = (forth @ inwards).float()
    enter.weight[channels:] = 0
    enter.bias[channels:] = (forth.square() @ stated).log().float()
    leave.bias += (outwards @ mean).float()
    leave.weight[:, :, 0, 0] = (outwards @ back).float()


@torch.no_grad()
def reconstruct(vae: Any, pixels: Tensor) -> Tensor:
    """(N, 3, H, W) in [-1, 1] -> the same through the autoencoder, without sampling noise."""
    return torch.cat([vae.decode(vae.encode(chunk).latent_dist.mean).sample for chunk in pixels.split(256)])


def psnr(shown: Tensor, pixels: Tensor) -> float:
    """Mean over pictures of the peak signal-to-noise ratio, in dB, for values in [-1, 1]."""
    error = (shown.clamp(-1, 1) - pixels).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return float((10 * torch.log10(4 / error)).mean())
