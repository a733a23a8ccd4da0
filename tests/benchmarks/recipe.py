"""The loop that diffusers' text-to-image LoRA example runs, written anew from what it does, to compare with.

It adapts the attention's projections only, encodes images and captions anew in every step, and reads every loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from torch import Tensor

from trainer.batch import Geometry


def loop(family: Any, pixels: Tensor, captions: Sequence[str], *, rank: int, autocast: Any) -> Callable[[int], None]:
    """A step over (B, 3, H, W) in [-1, 1]. `family`: frozen, on its device; `autocast`: makes a context."""
    unet, vae, device = family.unet, family.vae, pixels.device
    projections = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=projections))
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    schedule = get_scheduler("constant", optimizer)
    noising = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    sizes = torch.tensor([pixels.shape[-2:]] * len(pixels), device=device)
    geometry = Geometry(sizes, torch.zeros_like(sizes), sizes)
    losses: list[float] = []
    unet.train()

    def step(number: int) -> None:
        with torch.no_grad():
            latents = vae.encode(pixels.to(vae.dtype)).latent_dist.sample() * vae.config.scaling_factor
            text = family.encode_text(captions)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, noising.config.num_train_timesteps, (len(latents),), device=device).long()
        noisy = noising.add_noise(latents, noise, timesteps)
        with autocast():
            prediction = family.predict(noisy, timesteps, text, geometry)
        loss = torch.nn.functional.mse_loss(prediction.float(), noise.float(), reduction="mean")
        losses.append(loss.repeat(len(latents)).mean().item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    return step
