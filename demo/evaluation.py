"""Measures a model of handwriting with diffusers alone: what it draws, and its denoising loss on held-out digits.

Nothing of the trainer is used, so the demo also shows that the LoRA file works where people will load it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from demo import handwriting
from demo.handwriting import Handwriting
from demo.judge import Judge, Verdict
from demo.printed import SIDE
from demo.vae import to_pixels

STEPS = 20
GUIDANCE = 3.0
PER_DIGIT = 20
NOISES = 4  # draws of noise and timestep per held-out picture


@dataclass(frozen=True)
class Evaluation:
    images: tuple[Image.Image, ...]  # PER_DIGIT zeros, then as many ones, ...
    verdict: Verdict  # of `images`
    losses: NDArray[np.float64]  # (N,) of each held-out picture, mean over NOISES draws

    @property
    def heldout_loss(self) -> float:
        return float(self.losses.mean())


def digits() -> list[int]:
    """The digits that are asked for, in the order of `Evaluation.images`."""
    return [digit for digit in range(10) for _ in range(PER_DIGIT)]


def evaluate(base: Path, lora: Path | None, heldout: Handwriting, judge: Judge) -> Evaluation:
    """Loads a diffusers folder, with a LoRA file or without, and measures it. The same noise is used every time."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()  # of loading, which is over in a moment
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(lora)
        pipeline.fuse_lora()
    images = draw(pipeline)
    return Evaluation(tuple(images), judge(images, digits()), heldout_losses(pipeline, heldout))


def draw(pipeline: Any) -> list[Image.Image]:
    """One picture per entry of `digits()`; picture i always starts from the noise of seed i."""
    asked = digits()
    latents = torch.cat(
        [torch.randn(1, 4, SIDE // 2, SIDE // 2, generator=torch.Generator().manual_seed(i)) for i in range(len(asked))]
    )
    return list(
        pipeline(
            [handwriting.caption(digit) for digit in asked],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            latents=latents,
            width=SIDE,
            height=SIDE,
        ).images
    )


@torch.no_grad()
def heldout_losses(pipeline: Any, heldout: Handwriting) -> NDArray[np.float64]:
    """(N,): the v-prediction loss of each picture under plain noise, at NOISES timesteps spread over the schedule."""
    scheduler, count = pipeline.scheduler, len(heldout)
    clean = pipeline.vae.encode(to_pixels(list(heldout.images))).latent_dist.mean * pipeline.vae.config.scaling_factor
    captions = [handwriting.caption(int(digit)) for digit in heldout.labels]
    text, _ = pipeline.encode_prompt(captions, "cpu", 1, do_classifier_free_guidance=False)
    rng = torch.Generator().manual_seed(0)
    spread = torch.linspace(0, scheduler.config.num_train_timesteps - 1, count * NOISES).round().long()
    spread = spread[torch.randperm(len(spread), generator=rng)].view(NOISES, count)
    total = torch.zeros(count, dtype=torch.float64)
    for timesteps in spread:
        noise = torch.randn(clean.shape, generator=rng)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        target = scheduler.get_velocity(clean, noise, timesteps)
        total += _squared_error(pipeline.unet, noisy, timesteps, text, target).double()
    return (total / NOISES).numpy()


def _squared_error(unet: Any, noisy: Tensor, timesteps: Tensor, text: Tensor, target: Tensor) -> Tensor:
    """(N,): mean over channels and cells."""
    chunks = zip(*(whole.split(64) for whole in (noisy, timesteps, text)), strict=True)
    predicted = torch.cat([unet(x, t, encoder_hidden_states=c).sample for x, t, c in chunks])
    return (predicted - target).square().mean(dim=(1, 2, 3))
