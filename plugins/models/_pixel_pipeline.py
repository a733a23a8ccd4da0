"""Draws pictures with a network in pixel space, by the interface of diffusers' text-to-image pipelines."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor

Ask = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # x_t, timesteps (B,), class numbers (B,) -> the answer


@dataclass(frozen=True)
class Drawn:
    images: Tensor  # (B, C, H, W), about [-1, 1]
    evaluations: int  # how often the network was asked about the batch


class PixelPipeline:
    """`scheduler` is one of diffusers', or one that solves the whole path (`adaptive`)."""

    def __init__(self, ask: Ask, channels: int, scheduler: Any, device: torch.device, scale: float) -> None:
        """scale: the timestep that stands for time 1 of a flow."""
        self.scheduler = scheduler
        self._ask, self._channels, self._device, self._scale = ask, channels, device, scale

    def set_progress_bar_config(self, **_: Any) -> None:
        """There is no progress bar."""

    @torch.no_grad()
    def __call__(
        self,
        *,
        generator: Sequence[Generator],
        width: int,
        height: int,
        num_inference_steps: int,
        guidance_scale: float = 1.0,
        class_labels: Tensor | None = None,
        negative_class_labels: Tensor | None = None,
        output_type: str = "latent",
        callback_on_step_end: Callable[..., Any] = lambda *_: None,
    ) -> Drawn:
        """One picture for each generator. guidance_scale: classifier-free guidance, 0 and 1 = none (Ho and Salimans
        2022, arXiv 2207.12598), away from the negative class."""
        shape, count = (len(generator), self._channels, height, width), 0

        def answer(x: Tensor, timestep: Any) -> Tensor:
            nonlocal count
            count += 1
            times = torch.as_tensor(timestep, device=x.device).expand(len(x))
            found = self._ask(x, times, class_labels).float()
            if negative_class_labels is not None and guidance_scale not in (0, 1):
                other = self._ask(x, times, negative_class_labels).float()
                found = other + guidance_scale * (found - other)
            callback_on_step_end(self, count, timestep, {})
            return found

        start = randn_tensor(shape, generator=list(generator), device=self._device, dtype=torch.float32)
        if getattr(self.scheduler, "adaptive", False):
            images = self.scheduler.solve(lambda x, time: answer(x, time * self._scale), start)
        else:
            images = self._in_steps(answer, start, num_inference_steps, list(generator))
        return Drawn(images, count)

    def _in_steps(
        self, answer: Callable[[Tensor, Any], Tensor], start: Tensor, steps: int, generator: list[Generator]
    ) -> Tensor:
        scheduler = self.scheduler
        scheduler.set_timesteps(steps, device=self._device)
        random = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
        images = start * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            found = answer(scheduler.scale_model_input(images, timestep), timestep)
            images = scheduler.step(found, timestep, images, **random).prev_sample
        return images
