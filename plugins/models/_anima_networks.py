"""Builds Anima's networks. The conditioner is a part of the transformer, as in ComfyUI's file: both train together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AnimaTextConditioner, AutoencoderKLQwenImage, CosmosTransformer3DModel
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model

from plugins.models import _modules
from plugins.models._anima_files import Source
from plugins.models._anima_names import CONDITIONER
from plugins.models._modules import NO_WEIGHTS, Network
from plugins.models._vae import portions, within

CHILD = CONDITIONER.removesuffix(".")
_FRAMES, _SIDE = 128, 4096  # latent cells for which there are positions
_BLOCK = "CosmosTransformerBlock"  # the one that occurs many times, for compilation


@dataclass(frozen=True)
class Filling:
    """How networks get their weights."""

    source: Source
    outline: bool  # none at all, everything on the meta device
    dtype: torch.dtype | None  # as `_modules.fill` takes it

    def built(self, part: str, make: Any, *, fresh: bool = False, dtype: torch.dtype | None = None) -> Network:
        """fresh: new weights from torch's random state."""
        where = self.source.where(part)
        network = _modules.build(make, where, empty=not fresh)
        if fresh:
            return network
        state = NO_WEIGHTS if self.outline else self.source.weights(part)
        return _modules.fill(network, state, where, dtype or self.dtype)


def transformer(filling: Filling, *, fresh: bool) -> Network:
    config = dict(filling.source.config("transformer"))
    inner = dict(filling.source.config(CHILD))
    made = filling.built("transformer", lambda: CosmosTransformer3DModel.from_config(live(config)), fresh=fresh)
    child = filling.built(CHILD, lambda: AnimaTextConditioner.from_config(inner), fresh=fresh)
    if not filling.outline:
        child.rotary_emb = type(child.rotary_emb)(child.config.model_dim // child.config.num_attention_heads)
    made.add_module(CHILD, child)
    made._repeated_blocks = [_BLOCK]
    return _modules.freeze(made)


def live(config: Mapping[str, Any]) -> dict[str, Any]:
    """As it runs here: the mask of padding that the network reads as one more channel, zeros for a picture, is given as
    a channel: diffusers resizes such masks with torchvision, which nothing else needs. And positions go on beyond the
    sizes that diffusers' copies of the config name; those within are the same."""
    padded = bool(config.get("concat_padding_mask", True))
    return {
        **config,
        "concat_padding_mask": False,
        "in_channels": int(config["in_channels"]) + padded,
        "max_size": [_FRAMES, _SIDE, _SIDE],
    }


def stored(live: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The way back, for files. config: the base's own."""
    padded = live["in_channels"] - live["out_channels"]
    told = {"concat_padding_mask": bool(padded), "in_channels": live["out_channels"], "max_size": config["max_size"]}
    return {**live, **told}


def text_encoder(filling: Filling, *, fresh: bool) -> Network:
    config = filling.source.config("text_encoder")
    made = filling.built("text_encoder", lambda: Qwen3Model(Qwen3Config(**config)), fresh=fresh)
    if not filling.outline:
        made.rotary_emb = type(made.rotary_emb)(config=made.config)  # its numbers are no weights: they stayed on meta
    return _modules.freeze(made)


def vae(filling: Filling) -> Network:
    config = filling.source.config("vae")
    return _modules.freeze(
        filling.built("vae", lambda: AutoencoderKLQwenImage.from_config(dict(config)), dtype=torch.float32)
    )


def predict(network: Network, noisy: Tensor, times: Tensor, states: Mapping[str, Tensor]) -> Tensor:
    """noisy (B, C, h, w), times (B,) from 0, a picture, to 1 -> the velocity (B, C, h, w). states: as
    `_anima_text.encode` names them."""
    dtype = network.time_embed.norm.weight.dtype
    context = getattr(network, CHILD)(
        states["hidden"].to(dtype), states["words"], states["words_mask"], states["hidden_mask"]
    )
    given = noisy.to(dtype).unsqueeze(2)  # one frame
    padding = given.new_zeros(len(given), network.config.in_channels - given.shape[1], *given.shape[2:])
    found = network(torch.cat([given, padding], dim=1), times.float(), context.to(dtype), return_dict=False)[0]
    velocity: Tensor = found.squeeze(2)
    return velocity


def posterior(network: Network, pixels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(mean, standard deviation) of the latents of (B, 3, H, W) in [-1, 1], both (B, C, h, w) float32, of about mean 0
    and variance 1; computed in `dtype`."""
    frames = pixels.unsqueeze(2)
    found = [within(network, network.encode, some, dtype).latent_dist for some in portions(network, frames)]
    mean, std = torch.cat([one.mean for one in found]), torch.cat([one.std for one in found])
    middle, scale = _scales(network)
    return ((mean.float() - middle) / scale).squeeze(2), (std.float() / scale).squeeze(2)


def decode(network: Network, latents: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, C, h, w) -> (B, 3, H, W), about [-1, 1], float32; computed in `dtype`."""
    mean, scale = _scales(network)
    own = latents.to(network.device, torch.float32).unsqueeze(2) * scale + mean
    shown: Tensor = within(network, network.decode, own, dtype).sample
    return shown.squeeze(2).float()


def _scales(network: Network) -> tuple[Tensor, Tensor]:
    """(mean, deviation) of the VAE's own latents, each (1, C, 1, 1, 1)."""
    mean, scale = (
        torch.tensor(values, dtype=torch.float32, device=network.device).view(1, -1, 1, 1, 1)
        for values in (network.config.latents_mean, network.config.latents_std)
    )
    return mean, scale


def split(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The transformer's weights as diffusers keeps them: the conditioner apart, under names of its own."""
    own = {n: t for n, t in weights.items() if not n.startswith(CONDITIONER)}
    return {"transformer": own, CHILD: {n.removeprefix(CONDITIONER): t for n, t in weights.items() if n not in own}}


def parts_of(network: nn.Module) -> dict[str, Network]:
    """The transformer and its conditioner, by the names of diffusers' folders."""
    return {"transformer": network, CHILD: getattr(network, CHILD)}
