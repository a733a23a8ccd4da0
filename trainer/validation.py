"""The denoising loss on fixed noise and timesteps: comparable between checkpoints, settings and the untouched base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer import losses
from trainer.batch import Batch
from trainer.noise import gaussian
from trainer.protocols import Family, Objective
from trainer.randomness import generator
from trainer.sampling import evaluating


@dataclass(frozen=True)
class HeldOutLoss:
    """One row per (sample, draw), in the same order for the same batches, seed and draws: rows can be paired."""

    losses: Tensor  # (N * draws,) float32 on the CPU
    timesteps: Tensor  # (N * draws,)

    @property
    def mean(self) -> float:
        return float(self.losses.double().mean())


def stratified_timesteps(count: int, low: int, high: int, stream: torch.Generator) -> Tensor:
    """(count,) long: one uniform draw in each of `count` equal slices of [low, high), in random order."""
    slices = torch.randperm(count, generator=stream) + torch.rand(count, generator=stream)
    return (low + slices / count * (high - low)).long().clamp(max=high - 1)


def held_out_loss(
    family: Family,
    objective: Objective,
    batches: Sequence[Batch],
    *,
    seed: int,
    draws: int = 4,
    low: int = 0,
    high: int = 1000,
) -> HeldOutLoss:
    """The loss with plain Gaussian noise, never paired, `draws` times per sample at stratified timesteps.

    The noise depends only on (seed, sample's place), so that two calls on different weights see the same questions.
    """
    count = sum(len(batch) for batch in batches) * draws
    timesteps = stratified_timesteps(count, low, high, generator(seed, "validation.timesteps"))
    found: list[Tensor] = []
    done = 0
    with evaluating(family):
        for index, batch in enumerate(batches):
            clean = family.encode_images(batch.pixels) if batch.latents is None else batch.latents  # type: ignore[arg-type]
            text = family.encode_text(batch.captions) if batch.text is None else batch.text
            for draw in range(draws):
                t = timesteps[done : done + len(batch)].to(clean.device)
                noise = gaussian(clean, generator(seed, "validation.noise", index, draw))
                prediction = family.predict(objective.noisy(clean, noise, t), t, text, batch.geometry)
                found.append(
                    losses.masked_mean((prediction.float() - objective.target(clean, noise, t)) ** 2, None).cpu()
                )
                done += len(batch)
    return HeldOutLoss(torch.cat(found), timesteps)
