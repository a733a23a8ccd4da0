"""The image autoencoder of the latent-diffusion families: loading, encoding, decoding, always in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from plugins.models import _modules
from plugins.models._modules import Network

# Attention names of folders written before diffusers 0.18, as old checkpoints on the hub still have them.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def build(config: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> Network:
    """The VAE with its weights, frozen, float32. Raises UserError."""
    vae = _modules.build(lambda: AutoencoderKL.from_config(dict(config)), where, empty=True)
    return _modules.freeze(_modules.fill(vae, modern_names(state), where))


def modern_names(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Today's names for weights saved by any version of diffusers."""
    if state is _modules.NO_WEIGHTS:
        return state

    def rename(name: str) -> str:
        head, _, leaf = name.rpartition(".")
        stem, _, last = head.rpartition(".")
        return f"{stem}.{_OLD_ATTENTION[last]}.{leaf}" if ".attentions." in name and last in _OLD_ATTENTION else name

    return {rename(name): tensor for name, tensor in state.items()}


def factor(vae: Network) -> int:
    """Pixels per latent cell along one side."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def encode(vae: Network, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, C, h, w) float32, the posterior's mean times the VAE scale."""
    return posterior(vae, pixels)[0]


def posterior(vae: Network, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, standard deviation), both (B, C, h, w) float32, times the VAE scale."""
    with torch.no_grad(), torch.autocast(vae.device.type, enabled=False):
        # float32: SDXL's VAE overflows in float16.
        found = vae.encode(pixels.to(vae.device, torch.float32)).latent_dist
        return found.mean * vae.config.scaling_factor, found.std * vae.config.scaling_factor


def decode(vae: Network, latents: Tensor) -> Tensor:
    """(B, C, h, w), times the VAE scale -> (B, 3, H, W), about [-1, 1], float32."""
    with torch.no_grad(), torch.autocast(vae.device.type, enabled=False):
        return vae.decode(latents.to(vae.device, torch.float32) / vae.config.scaling_factor).sample
