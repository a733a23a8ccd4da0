"""A step without images: the base's own answers to some prompts tell what another prompt's answer shall become.

Gandikota et al. 2023, arXiv 2303.07345 (erasing), and 2023, arXiv 2311.12092 (sliders); LECO's form of both.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from trainer.batch import Batch, Contrast, Geometry, NoiseSchedule, TextStates
from trainer.protocols import Objective
from trainer.training.losses import Loss, weighted_mean
from trainer.training.network import Base, Inputs, Predict
from trainer.training.noise import NoiseChain, Streams
from trainer.training.step import StepResult, noisiness


@dataclass(frozen=True)
class ContrastStep:
    """Pictures are begun out of noise by the network as it is now. Where that ends, its answer to the prompt is held
    against neutral + guidance * (positive - unconditional), which the base answers."""

    network: Predict
    base: Base
    scaled: Callable[[float], AbstractContextManager[None]]  # inside, adapters act so many times as strongly
    objective: Objective
    noise: NoiseChain
    loss: Loss
    steps: int  # of a whole denoising
    guidance: float  # of the denoising

    def held(self, batch: Batch) -> AbstractContextManager[None]:
        """Around a step and its backward pass, which computes some of it once more."""
        return self.scaled(_contrast(batch).strength)

    def __call__(self, batch: Batch, streams: Streams) -> StepResult:
        assert batch.latents is not None
        contrast, times = _contrast(batch), denoising_times(self.objective.schedule, self.steps)
        at_start = times[0].expand(len(batch)).to(batch.latents.device)
        draw = self.noise.draw(batch.latents.float(), at_start, streams, captions=batch.captions)
        noisy = self._begun(draw.mixed, batch, times[: contrast.denoised + 1])
        timesteps = times[contrast.denoised].expand(len(batch)).to(noisy.device)
        inputs = Inputs(noisy, timesteps, batch.text, batch.captions, batch.geometry)
        target = contrast_target(partial(self._base_of, inputs, contrast), contrast)
        at = noisiness(self.objective, timesteps)
        losses = self.loss.per_sample(self.network(*inputs), target, at)
        weights = batch.weights * self.loss.timestep_weights(at)
        return StepResult(weighted_mean(losses, weights), losses.detach(), timesteps)

    def _base_of(self, inputs: Inputs, contrast: Contrast, prompt: str) -> Tensor:
        """What the base makes of the same noisy latents under another prompt, (B, C, h, w) float32."""
        captions = [prompt] * len(inputs.captions)
        return self.base(inputs._replace(text=contrast.states[prompt], captions=captions)).float()

    @torch.no_grad()
    def _begun(self, noise: Tensor, batch: Batch, times: Tensor) -> Tensor:
        """Noise (B, C, h, w), denoised from the first of the times to the last, by DDIM (Song et al. 2020, arXiv
        2010.02502, equation 12 without new noise)."""
        noisy = noise
        for now, then in pairwise(times):
            here, there = (time.expand(len(batch)).to(noise.device) for time in (now, then))
            clean, left = self.objective.separated(noisy, self._guided(noisy, here, batch), here)
            noisy = self.objective.noisy(clean, left, there)
        return noisy

    def _guided(self, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        """The network's answer under classifier-free guidance away from the unconditional prompt, float32."""
        contrast = _contrast(batch)
        assert batch.text is not None
        if self.guidance == 1:
            return self.network(noisy, timesteps, batch.text, batch.captions, batch.geometry).float()
        text = TextStates.cat([contrast.states[contrast.unconditional], batch.text])
        captions = [*(contrast.unconditional,) * len(batch), *batch.captions]
        both = self.network(noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), text, captions, _twice(batch.geometry))
        without, with_it = both.float().chunk(2)
        return without + self.guidance * (with_it - without)


def contrast_target(base: Callable[[str], Tensor], contrast: Contrast) -> Tensor:
    """neutral + guidance * (positive - unconditional), each prompt asked about once."""
    prompts = {contrast.neutral} | ({contrast.positive, contrast.unconditional} if contrast.guidance else set())
    answers = {prompt: base(prompt) for prompt in sorted(prompts)}
    if not contrast.guidance:
        return answers[contrast.neutral]
    direction = answers[contrast.positive] - answers[contrast.unconditional]
    return answers[contrast.neutral] + contrast.guidance * direction


def denoising_times(schedule: NoiseSchedule, steps: int) -> Tensor:
    """(steps,): the times of a denoising from pure noise on, evenly apart, the last one before the image itself."""
    shares = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    if schedule.continuous:
        return (shares * schedule.steps).float()
    return (shares * schedule.steps).round().long().clamp(min=1) - 1


def _contrast(batch: Batch) -> Contrast:
    assert batch.contrast is not None
    return batch.contrast


def _twice(geometry: Geometry) -> Geometry:
    return Geometry(*(one.repeat(2, 1) for one in (geometry.original, geometry.crop, geometry.target)))
