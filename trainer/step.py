"""One training step: batch in, loss out. No I/O, no model names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.batch import Batch, sent
from trainer.errors import UserError
from trainer.losses import Loss, Noisiness, weighted_mean
from trainer.noise import NoiseChain, Streams
from trainer.protocols import Objective
from trainer.timesteps import Timesteps

Predict = Callable[..., Tensor]  # the call of trainer.network.Network, wrapped by accelerate
EncodeImages = Callable[[Tensor], Tensor]  # (B, 3, H, W) in [-1, 1] -> (B, C, h, w), times the VAE scale


@dataclass(frozen=True)
class StepResult:
    loss: Tensor  # scalar, weighted
    per_sample: Tensor  # (B,) float32, detached, unweighted
    timesteps: Tensor  # (B,)


@dataclass(frozen=True)
class TrainingStep:
    """The stages of a step that come between the loader and the optimizer, in the order in which they stand here."""

    predict: Predict
    encode_images: EncodeImages
    objective: Objective
    noise: NoiseChain
    timesteps: Timesteps
    loss: Loss

    def __call__(self, batch: Batch, streams: Streams) -> StepResult:
        clean = self._clean(batch)
        timesteps = sent(self.timesteps.draw(len(batch), streams.on_cpu("timesteps")), clean.device)
        draw = self.noise.draw(clean, timesteps, streams)
        noisy = self.objective.noisy(clean, draw.mixed, timesteps)
        target = self.objective.target(clean, draw.target, timesteps)
        prediction = self.predict(noisy, timesteps, batch.text, batch.captions, batch.geometry)
        at = noisiness(self.objective, timesteps)
        each = self.loss.per_sample(prediction, target, at, batch.mask)
        weights = batch.weights * self.loss.timestep_weights(at)
        return StepResult(weighted_mean(each, weights), each.detach(), timesteps)

    def _clean(self, batch: Batch) -> Tensor:
        if batch.latents is not None:
            return batch.latents.float()
        assert batch.pixels is not None
        with torch.no_grad():
            clean = self.encode_images(batch.pixels).float()
        bad = [
            name for name, ok in zip(batch.names, clean.isfinite().flatten(1).all(1).tolist(), strict=True) if not ok
        ]
        if bad:
            raise UserError(
                f"{name}: the VAE turned this image into NaN or infinity; is the file sound?" for name in bad
            )
        return clean


def noisiness(objective: Objective, timesteps: Tensor) -> Noisiness:
    """The signal-to-noise ratio that is trained, whatever made it: schedule, zero terminal SNR, flow."""
    alpha, sigma = objective.signal_and_noise(timesteps)
    return Noisiness(timesteps, (alpha / sigma) ** 2, objective.predicts_noise)
