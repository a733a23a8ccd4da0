"""Draws pictures with Anima's live networks, called as diffusers' pipelines are.

Step for step what diffusers' modular pipeline does: times from 1 down in equal parts, bent by the schedule's shift,
Euler steps, and guidance away from the negative prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from trainer.batch import TextStates

Predict = Callable[[Tensor, Tensor, TextStates], Tensor]  # noisy (B, C, h, w), times (B,), states of B captions


@dataclass
class Drawn:
    images: Tensor  # (B, C, h, w) latents


class AnimaSampler:
    def __init__(self, predict: Predict, scheduler: Any, channels: int, factor: int, device: torch.device) -> None:
        """scheduler: diffusers' FlowMatchEulerDiscreteScheduler; factor: pixels per latent cell along one side."""
        self.scheduler = scheduler
        self._predict, self._channels, self._factor, self._device = predict, channels, factor, device

    def set_progress_bar_config(self, **_: Any) -> None:
        """It has none."""

    @torch.no_grad()
    def __call__(
        self,
        *,
        prompt_states: TextStates,
        negative_states: TextStates,
        generator: Sequence[Generator],
        width: int,
        height: int,
        num_inference_steps: int,
        guidance_scale: float,
        output_type: str,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], Any],
    ) -> Drawn:
        """Latents from a generator's plain noise for each picture; sizes in pixels; output_type: "latent"."""
        assert output_type == "latent", output_type
        shape = (1, self._channels, height // self._factor, width // self._factor)
        noise = [torch.randn(shape, generator=g, device=g.device, dtype=torch.float32) for g in generator]
        latents = torch.cat(noise).to(self._device)
        shares = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        self.scheduler.set_timesteps(sigmas=shares, device=self._device)
        self.scheduler.set_begin_index(0)
        for number, time in enumerate(self.scheduler.timesteps):
            times = time.expand(len(latents))
            velocity = self._predict(latents, times, prompt_states)
            if guidance_scale != 1:
                without = self._predict(latents, times, negative_states)
                velocity = without + guidance_scale * (velocity - without)
            latents = self.scheduler.step(velocity.float(), time, latents, return_dict=False)[0]
            callback_on_step_end(self, number, time, {})
        return Drawn(latents)
