"""One training step: batch in, loss out. No I/O, no model names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from trainer.batch import Batch, NoiseDraw, Shown, sent
from trainer.errors import UserError
from trainer.protocols import Objective
from trainer.training.losses import Loss, Noisiness, weighted_mean
from trainer.training.network import Inputs, Predict
from trainer.training.noise import NoiseChain, Streams
from trainer.training.preservation import Losses, Preservation
from trainer.training.timesteps import TimestepSampler

EncodeImages = Callable[[Tensor], Tensor]  # (B, 3, H, W) in [-1, 1] -> (B, C, h, w), times the VAE scale


@dataclass(frozen=True)
class StepResult:
    loss: Tensor  # scalar, weighted
    per_sample: Tensor  # (B,) float32, detached, unweighted
    timesteps: Tensor  # (B,)
    kept: Tensor | None = None  # (B,) float32, detached: what is held to the base besides; None where nothing is
    sound: Tensor | None = None  # (B,) bool: the latents are numbers; None where a cache has seen to it


class Step(Protocol):
    """From a batch to its loss. `TrainingStep` is the ordinary one, which learns from images."""

    @property
    def noise(self) -> NoiseChain: ...

    def held(self, batch: Batch) -> AbstractContextManager[None]:
        """Around a step and its backward pass."""
        ...

    def __call__(self, batch: Batch, streams: Streams) -> StepResult: ...


@dataclass(frozen=True)
class _Answered:
    inputs: Inputs
    answer: Tensor  # (B, C, h, w)
    losses: Tensor  # (B,) against the images' targets


@dataclass(frozen=True)
class TrainingStep:
    """The stages of a step that come between the loader and the optimizer, in the order in which they stand here."""

    predict: Predict
    encode_images: EncodeImages
    objective: Objective
    noise: NoiseChain
    timesteps: TimestepSampler
    loss: Loss
    preservation: Preservation | None = None

    def held(self, batch: Batch) -> AbstractContextManager[None]:
        return nullcontext()

    def __call__(self, batch: Batch, streams: Streams) -> StepResult:
        clean = clean_latents(batch, self.encode_images)
        batch = replace(batch, shown=self._encoded(batch.shown))
        sound = soundness(batch, clean)
        timesteps = sent(self.timesteps.draw(len(batch), streams.on_cpu("timesteps")), clean.device)
        at = noisiness(self.objective, timesteps)

        def losses(noise: Tensor) -> Tensor:
            with torch.no_grad():
                streams.seed_networks()  # all candidates, and the step itself, with the same dropout
                return self._answered(batch, clean, at, NoiseDraw(noise, noise)).losses.detach()

        draw = self.noise.draw(clean, timesteps, streams, captions=batch.captions, images=batch.images, losses=losses)
        if self.noise.asks_network:
            streams.seed_networks()
        found = self._answered(batch, clean, at, draw)
        each = Losses(found.losses, torch.zeros_like(found.losses))
        if self.preservation is not None:
            each = self.preservation(found.inputs, found.answer, found.losses, batch, at, streams.step)
        weights = batch.weights * self.loss.timestep_weights(at)
        kept = each.kept.detach() if self.preservation is not None and self.preservation.adds else None
        return StepResult(weighted_mean(each.own + each.kept, weights), each.own.detach(), timesteps, kept, sound)

    def _answered(self, batch: Batch, clean: Tensor, at: Noisiness, draw: NoiseDraw) -> _Answered:
        """What the network makes of the clean latents with this noise, held against its target."""
        noisy = self.objective.noisy(clean, draw.mixed, at.timesteps)
        target = self.objective.target(clean, draw.target, at.timesteps)
        inputs = Inputs(noisy, at.timesteps, batch.text, batch.captions, batch.geometry, batch.shown)
        answer = self.predict(*inputs)
        return _Answered(inputs, answer, self.loss.per_sample(answer, target, at, batch.mask))

    def _encoded(self, shown: Shown | None) -> Shown | None:
        if shown is None or shown.pixels is None:
            return shown
        with torch.no_grad():
            return Shown(shown.hidden, latents=self.encode_images(shown.pixels).float())


def clean_latents(batch: Batch, encode_images: EncodeImages) -> Tensor:
    """(B, C, h, w) float32, encoded here where they are not cached."""
    if batch.latents is not None:
        return batch.latents.float()
    assert batch.pixels is not None
    with torch.no_grad():
        return encode_images(batch.pixels).float()


def soundness(batch: Batch, clean: Tensor) -> Tensor | None:
    """`StepResult.sound` of a batch and its latents."""
    return None if batch.latents is not None else clean.isfinite().flatten(1).all(1)


def refuse_unsound(names: Sequence[str], sound: Sequence[bool]) -> None:
    """Raises UserError for images whose latents are no numbers. Their step was not taken: its gradients are none."""
    bad = [name for name, ok in zip(names, sound, strict=True) if not ok]
    if bad:
        raise UserError(
            f"{name}: the VAE turned this image into NaN or infinity; is the file sound? Does the VAE bear "
            "model.vae_precision?"
            for name in bad
        )


def noisiness(objective: Objective, timesteps: Tensor) -> Noisiness:
    """The signal-to-noise ratio that is trained, whatever made it: schedule, zero terminal SNR, flow."""
    alpha, sigma = objective.signal_and_noise(timesteps)
    return Noisiness(timesteps, (alpha / sigma) ** 2, objective.predicts_noise, objective.schedule.steps)
