"""Asks a UNet what it predicts, where its file does not say."""

from __future__ import annotations

from typing import Any

import torch

SIZES = 6  # numbers of SDXL's picture sizes


@torch.no_grad()
def predicts_velocity(unet: Any) -> bool:
    """Whether a UNet predicts v, from what it returns for a constant latent of 0.5 at the noisiest timestep.

    There an epsilon model takes its input for noise and returns it, a v model does not. The threshold of -1 for the
    mean difference is that of A1111's web UI.
    """
    channels, width = unet.config.in_channels, unet.config.cross_attention_dim
    weight = next(unet.parameters())
    latent = torch.full((1, unet.config.out_channels, 8, 8), 0.5, dtype=weight.dtype, device=weight.device)
    hidden = latent.new_ones(1, channels - latent.shape[1], 8, 8)  # of inpainting models: nothing is visible
    hidden[:, 1:] = 0
    text = torch.zeros(1, 77, width, dtype=weight.dtype, device=weight.device)
    rest = {}
    if unet.config.addition_embed_type == "text_time":
        pooled = unet.config.projection_class_embeddings_input_dim - SIZES * unet.config.addition_time_embed_dim
        sizes = torch.tensor([[1024, 1024, 0, 0, 1024, 1024]], dtype=weight.dtype, device=weight.device)
        rest = {"added_cond_kwargs": {"text_embeds": text.new_zeros(1, pooled), "time_ids": sizes}}
    answer = unet(torch.cat([latent, hidden], dim=1), torch.tensor([999], device=weight.device), text, **rest).sample
    return float((answer - latent).mean()) < -1
