"""What Stable Diffusion's families share: a UNet over the latents of an image autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plugins.models import _modules, _noise_schedule, _vae
from plugins.models._modules import Network


@dataclass(frozen=True)
class NoiseSchedule:
    config: Mapping[str, Any]  # diffusers' scheduler_config.json
    prediction: str  # the objective's name
    alphas_cumprod: Tensor  # (timesteps,)

    @classmethod
    def read(cls, config: Mapping[str, Any], prediction: str, where: str) -> NoiseSchedule:
        """From a scheduler's config; `prediction` "auto" takes the config's. Raises UserError."""
        objective = _noise_schedule.objective(config, prediction, where)
        return cls(config, objective, _noise_schedule.alphas_cumprod(config, where))


class LatentDiffusion:
    """The half of `Family` that concerns pictures: parts, placement, latents."""

    def __init__(self, unet: Network, vae: Network, schedule: NoiseSchedule) -> None:
        self.unet = unet
        self.vae = vae
        self.schedule = schedule
        self.prediction = schedule.prediction
        self.alphas_cumprod = schedule.alphas_cumprod
        self.latent_factor = _vae.factor(vae)
        self.parts: dict[str, nn.Module] = {"unet": unet}

    def to(self, device: torch.device | str, frozen_dtype: torch.dtype) -> None:
        """Moves everything; parameters that do not require gradients take `frozen_dtype`, the VAE stays float32."""
        for part in self.parts.values():
            _modules.move(part, device, frozen_dtype)
        self.vae.to(device)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w) float32: the posterior's mean, times the VAE scale."""
        return _vae.encode(self.vae, pixels)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """(B, C, h, w), times the VAE scale -> (B, 3, H, W), about [-1, 1], float32."""
        return _vae.decode(self.vae, latents)

    @property
    def _unet_dtype(self) -> torch.dtype:
        # The first convolution is never adapted, so it has the precision of the UNet's own weights.
        return self.unet.conv_in.weight.dtype
