"""Immiscible assignment: the noises of a pool in the order that is nearest to its latents (arXiv 2406.12303).

Without the trainer:

    from plugins.noise.assignment import assign
    noise = assign(latents, torch.randn_like(latents))
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from plugins.noise._draws import normal, rows
from plugins.noise._pairing import Precision, distances, joint_assignment, solve
from plugins.noise._settings import ALL_TIMESTEPS, WINDOW_HELP, StageSettings, Window, inside, setting

if TYPE_CHECKING:
    from typing import Self

    from trainer.batch import NoiseDraw
    from trainer.protocols import Phase

Pool = Literal["batch", "step"] | Annotated[int, Field(ge=0, le=65536)]


@torch.no_grad()
def assign(latents: Tensor, noise: Tensor, *, precision: Precision = "float32") -> Tensor:
    """The same noises in the order that pairs them best with the latents: the sum of the distances is least.

    latents: (B, ...), times the VAE scale; noise: the same shape, or more of them on the leading index, of which the
    best B are taken. precision "float16" rounds both before the distances are computed, as the paper's quantised
    variant does; the returned noise is never rounded. The permutation is found on the CPU.

    Raises ValueError when the shapes do not fit or a number is NaN.
    """
    if latents.shape[1:] != noise.shape[1:]:
        raise ValueError(f"latents {tuple(latents.shape)} and noise {tuple(noise.shape)} differ in shape")
    return noise[solve(distances(rows(latents), rows(noise), precision))]


@torch.no_grad()
def assign_candidates(latents: Tensor, k: int, *, generator: Generator) -> Tensor:
    """Noise for the latents, assigned from k candidates per latent, all B k of them jointly.

    latents: (B, ...), times the VAE scale. Returns noise with their shape, dtype and device. The law is that of drawing
    B k noises and assigning B of them with the least sum of distances; only B are ever made. They are the generator's
    next `torch.randn` before the assignment, so k = 1 is `assign` on plain noise, and B = 1 the nearest of k.

    Raises ValueError when k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}")
    x = rows(latents)
    plain = normal((*x.shape,), generator, x.device, x.dtype)
    return _pair(x, plain, k, generator, "float32").reshape(latents.shape).to(latents.dtype)


def _pair(x: Tensor, plain: Tensor, k: int, generator: Generator, precision: Precision) -> Tensor:
    return joint_assignment(x, plain, k, generator) if k > 1 else plain[solve(distances(x, plain, precision))]


class AssignmentSettings(StageSettings):
    pool: Pool = setting(
        "batch",
        'How many samples are paired at once: "batch" = the micro-batch, "step" = all samples of an optimizer step, '
        "over accumulation and processes, or a number of samples ahead, which also works at batch size 1. "
        "0 = off; the authors pair 128 to 1024.",
        kohya=("immiscible_noise", "linear_assignment"),
        basic=True,
    )
    candidates: int = setting(
        1,
        "Noise candidates per sample, all of the pool's assigned jointly: oversampling and assignment in one.",
        ge=1,
        le=4096,
    )
    precision: Precision = setting(
        "float32", "float16 rounds latents and noise before the distances: the paper's quantised assignment."
    )
    timesteps: Window = setting(ALL_TIMESTEPS, WINDOW_HELP)

    @model_validator(mode="after")
    def _precision_of_drawn_noise(self) -> Self:
        if self.candidates > 1 and self.precision == "float16":
            raise ValueError('precision = "float16" has no meaning with candidates > 1, whose distances need no noise')
        return self


class Assignment:
    """Immiscible assignment: the noises of a pool in the order that is nearest to its latents (arXiv 2406.12303).

    The pool's noises are the plain ones, only in another order, unless there are more candidates than samples.
    """

    Settings: ClassVar[type[AssignmentSettings]] = AssignmentSettings
    headline: ClassVar[str] = "pool"
    phase: ClassVar[Phase] = "pair"
    sweep: ClassVar[tuple[int, ...]] = tuple(2**n for n in range(3, 11))  # of the pool, for the noise report

    def __init__(self, settings: AssignmentSettings) -> None:
        self.settings = settings
        self.pool = settings.pool

    @classmethod
    def active(cls, settings: AssignmentSettings) -> bool:
        return settings.pool != 0 and (settings.pool != 1 or settings.candidates > 1)

    @classmethod
    def remark(cls, settings: AssignmentSettings, batch_size: int, accumulation: int) -> str | None:
        """A warning when these settings pair a sample with the only noise there is."""
        samples = {"batch": batch_size, "step": batch_size * accumulation}.get(str(settings.pool), 2)
        if samples > 1 or settings.candidates > 1:
            return None
        return (
            f"with one sample at a time pool = {settings.pool!r} changes nothing; give a number of samples ahead, "
            "such as pool = 512, or candidates, or use noise.oversampling"
        )

    @classmethod
    def metadata(cls, settings: AssignmentSettings) -> dict[str, object]:
        """No other tool has keys for it."""
        return {"ss_noise_assignment": settings.pool, "ss_noise_assignment_candidates": settings.candidates}

    @classmethod
    def information(cls, settings: AssignmentSettings, together: int) -> float:
        """Nats about the image in its noise, at most: which of the pool's noises it got."""
        return math.log(max(1, together * settings.candidates))

    @torch.no_grad()
    def __call__(self, draw: NoiseDraw, clean: Tensor, timesteps: Tensor, generator: Generator) -> NoiseDraw:
        """Pairs all samples that it is given, in pools of at most `pool`; see trainer.protocols.NoiseStage.

        Waits for the device: the assignment is solved on the CPU.
        """
        x, noise = rows(clean), rows(draw.target).clone()
        acts = inside(self.settings.timesteps, timesteps)
        paired = torch.arange(len(x), device=x.device) if acts is None else acts.nonzero()[:, 0]
        for pool in paired.split(self.pool if isinstance(self.pool, int) else max(1, len(paired))):
            if len(pool):
                noise[pool] = _pair(x[pool], noise[pool], self.settings.candidates, generator, self.settings.precision)
        noise = noise.reshape(clean.shape)
        return replace(draw, target=noise, mixed=noise)


PLUGIN = Assignment
