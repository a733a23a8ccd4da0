"""The denoising loss on fixed noise and timesteps: comparable between checkpoints, settings and the untouched base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.batch import Batch, NoiseSchedule
from trainer.protocols import Family, Objective
from trainer.randomness import generator
from trainer.samples.drawing import evaluating
from trainer.training.losses import masked_mean
from trainer.training.noise import gaussian
from trainer.validation.measurements import Losses, Questions


class InterruptedMeasuringError(Exception):
    """A stop was asked for while the model was measured."""


@dataclass(frozen=True)
class QuestionBatch:
    """Pictures of one size that are measured together, on the CPU."""

    rows: tuple[int, ...]  # their places in Questions.pictures
    batch: Batch


def timesteps_of(name: str, *, seed: int, draws: int, schedule: NoiseSchedule) -> tuple[float, ...]:
    """One time in each of `draws` equal slices of the schedule, whole where it is discrete. They depend on
    nothing but the arguments, so that an image is asked the same whatever other images there are."""
    places = torch.rand(draws, generator=generator(seed, f"validation.timesteps/{name}"), dtype=torch.float64)
    return tuple(schedule.at((torch.arange(draws) + places) / draws).tolist())


def noise_of(name: str, draw: int, like: Tensor, *, seed: int) -> Tensor:
    """Plain N(0, I), of the shape of `like` (C, h, w), float32 on the CPU: the same on every device, never paired."""
    return gaussian(like.cpu(), generator(seed, f"validation.noise/{name}", draw))


def measure(
    family: Family,
    objective: Objective,
    questions: Questions,
    asked: Sequence[QuestionBatch],
    device: torch.device | str = "cpu",
    stopped: Callable[[], bool] = lambda: False,
) -> Losses:
    """(N, D): the mean squared error of every question about the pictures in `asked`, 0 for those of others.
    Raises InterruptedMeasuringError soon after `stopped` says so.

    No weights and no other loss than that one: numbers of runs with different losses can be compared. Touches no
    random stream but its own.
    """
    found = np.zeros((len(questions.pictures), questions.draws))
    with evaluating(family):
        for one in asked:
            batch, latents = one.batch.to(device), one.batch.latents
            assert latents is not None
            assert batch.latents is not None
            text = family.encode_text(batch.captions) if batch.text is None else batch.text
            for draw in range(questions.draws):
                if stopped():
                    raise InterruptedMeasuringError
                pictures = [questions.pictures[row] for row in one.rows]
                t = torch.tensor([p.timesteps[draw] for p in pictures], device=device)
                noise = torch.stack(
                    [
                        noise_of(p.name, draw, like, seed=questions.seed)
                        for p, like in zip(pictures, latents, strict=True)
                    ]
                ).to(device)
                noisy = objective.noisy(batch.latents, noise, t)
                prediction = family.predict(noisy, t, text, batch.geometry, batch.shown)
                error = (prediction.float() - objective.target(batch.latents, noise, t).float()) ** 2
                found[list(one.rows), draw] = masked_mean(error, batch.mask).cpu().numpy()
    return found
