"""The image autoencoder of the latent-diffusion families: loading, encoding, decoding.

Its weights are always held in float32; whoever computes in another precision rounds them for that call alone, so that
no rounding can reach a file or a hash."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.func import functional_call

from plugins.models import _modules
from plugins.models._lazily import renamed
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

    return renamed(state, rename)


def factor(vae: Network) -> int:
    """Pixels per latent cell along one side."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def encode(vae: Network, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, C, h, w) float32: the posterior's mean, times the VAE scale; in `dtype`."""
    return posterior(vae, pixels, dtype)[0]


def posterior(vae: Network, pixels: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """(mean, standard deviation), both (B, C, h, w) float32, times the VAE scale; computed in `dtype`."""
    found = [within(vae, vae.encode, some, dtype).latent_dist for some in portions(vae, pixels)]
    mean, std = torch.cat([one.mean for one in found]), torch.cat([one.std for one in found])
    return mean.float() * vae.config.scaling_factor, std.float() * vae.config.scaling_factor


def portions(vae: Network, pixels: Tensor) -> Sequence[Tensor]:
    """A processor's cache holds what one picture needs: one of 256 pixels takes half the time of one in 16, and large
    ones gain nothing together (tests/benchmarks/cache.py). And its latents depend on no other picture."""
    return pixels.split(1) if vae.device.type == "cpu" else (pixels,)


def decode(vae: Network, latents: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, C, h, w), times the VAE scale -> (B, 3, H, W), about [-1, 1], float32; computed in `dtype`."""
    scaled: Tensor = latents.to(vae.device, torch.float32) / vae.config.scaling_factor
    shown: Tensor = within(vae, vae.decode, scaled, dtype).sample
    return shown.float()


def within(vae: Network, call: Callable[[Tensor], Any], given: Tensor, dtype: torch.dtype) -> Any:
    """What a method of the VAE gives with weights, input and arithmetic of a precision."""
    with torch.no_grad(), _without_autocast(vae.device.type):
        if dtype == torch.float32:
            return call(given.to(vae.device, dtype))
        rounded = {f"vae.{name}": weight.to(dtype) for name, weight in vae.named_parameters()}
        return functional_call(_Calling(vae, call), rounded, (given.to(vae.device, dtype),))


def _without_autocast(kind: str) -> AbstractContextManager[Any]:
    """The meta device knows no autocast."""
    if kind == "meta":
        return nullcontext()
    return torch.autocast(kind, enabled=False)


class _Calling(nn.Module):
    """A method of a module as the forward of one that owns it: torch swaps weights around `forward` alone."""

    def __init__(self, vae: Network, call: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.vae, self._call = vae, call

    def forward(self, given: Tensor) -> Any:
        return self._call(given)
