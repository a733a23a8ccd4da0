"""Immiscible assignment: the noises of a pool in the order that is nearest to its latents (arXiv 2406.12303).

Without the trainer:

    from plugins.noise.assignment import assign
    noise = assign(latents, torch.randn_like(latents))
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ._gradients import without_gradients
from ._settings import ALL_TIMESTEPS, WINDOW_HELP, Precision, StageSettings, Window, inside, setting
from ._stage import Pool, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

    from torch import Generator, Tensor

    from trainer.batch import NoiseContext, NoiseDraw

PoolSetting = Literal["batch", "step"] | Annotated[int, Field(ge=0, le=65536)]


@without_gradients
def assign(latents: Tensor, noise: Tensor, *, precision: Precision = "float32") -> Tensor:
    """The same noises in the order that pairs them best with the latents: the sum of the distances is least.

    latents: (B, ...), times the VAE scale; noise: the same shape, or more of them on the leading index, of which the
    best B are taken. precision "float16" rounds both before the distances are computed, as the paper's quantised
    variant does; the returned noise is never rounded. The permutation is found on the CPU.

    Raises ValueError when the shapes do not fit or a number is NaN.
    """
    if latents.shape[1:] != noise.shape[1:]:
        raise ValueError(f"latents {tuple(latents.shape)} and noise {tuple(noise.shape)} differ in shape")
    from ._draws import rows, sent
    from ._pairing import distances, solve

    return noise[sent(solve(distances(rows(latents), rows(noise), precision)), noise.device)]


@without_gradients
def assign_candidates(latents: Tensor, k: int, *, generator: Generator) -> Tensor:
    """Noise for the latents, assigned from k candidates per latent, all B k of them jointly.

    latents: (B, ...), times the VAE scale. Returns noise with their shape, dtype and device. The law is that of drawing
    B k noises and assigning B of them with the least sum of distances; only B are ever made. They are the generator's
    next `torch.randn` before the assignment, so k = 1 is `assign` on plain noise, and B = 1 the nearest of k.

    Raises ValueError when k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}")
    from ._draws import normal, rows

    x = rows(latents)
    plain = normal((*x.shape,), generator, x.device, x.dtype)
    return _pair(x, plain, k, generator, "float32").reshape(latents.shape).to(latents.dtype)


def _pair(x: Tensor, plain: Tensor, k: int, generator: Generator, precision: Precision) -> Tensor:
    from ._draws import sent
    from ._pairing import distances, joint_assignment, solve

    if k > 1:
        return joint_assignment(x, plain, k, generator)
    return plain[sent(solve(distances(x, plain, precision)), plain.device)]


class AssignmentSettings(StageSettings):
    pool: PoolSetting = setting(
        "batch",
        'How many samples are paired at once: "batch" = the micro-batch, "step" = all samples of an optimizer step, '
        "over accumulation and processes, or a number of samples ahead, which also works at batch size 1. "
        "0 = off; the authors pair 128 to 1024.",
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
    by: Literal["nothing", "caption"] = setting(
        "nothing",
        'What samples must have in common to be paired together. "caption": equal captions, as they are trained '
        "(C2OT, arXiv 2503.10636): else the noise of each caption is skewed, while sampling starts from plain noise.",
    )
    timesteps: Window = setting(ALL_TIMESTEPS, WINDOW_HELP)

    @model_validator(mode="after")
    def _precision_of_drawn_noise(self) -> Self:
        if self.candidates > 1 and self.precision == "float16":
            raise ValueError('precision = "float16" has no meaning with candidates > 1, whose distances need no noise')
        return self


class Assignment(Stage):
    """Immiscible assignment: the noises of a pool in the order that is nearest to its latents (arXiv 2406.12303).

    The pool's noises are the plain ones, only in another order, unless there are more candidates than samples.
    """

    Settings = AssignmentSettings
    headline = "pool"
    phase = "pair"
    example: ClassVar[dict[str, object]] = {"pool": "batch"}
    sweep = tuple(2**n for n in range(3, 11))  # of the pool, for the noise report

    def __init__(self, settings: AssignmentSettings) -> None:
        super().__init__(settings)
        self.pool: Pool = settings.pool

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
    def remark_on(cls, settings: AssignmentSettings, captions: Sequence[str]) -> str | None:
        """A warning when no two images share a caption, or few do."""
        if settings.by == "nothing" or settings.candidates > 1 or not captions:
            return None
        different = len(set(captions))
        if different < len(captions) / 2:
            return None
        return (
            f"by = 'caption' pairs equal captions only, and {len(captions)} images have {different} different ones: "
            f"{'nothing is' if different == len(captions) else 'little is'} paired"
        )

    @classmethod
    def metadata(cls, settings: AssignmentSettings) -> dict[str, object]:
        """No other tool has keys for it."""
        found: dict[str, object] = {
            "ss_noise_assignment": settings.pool,
            "ss_noise_assignment_candidates": settings.candidates,
        }
        return found if settings.by == "nothing" else {**found, "ss_noise_assignment_by": settings.by}

    @classmethod
    def information(cls, settings: AssignmentSettings, together: int) -> float:
        """Nats about the image in its noise, at most: which of the pool's noises it got."""
        return math.log(max(1, together * settings.candidates))

    @without_gradients
    def __call__(self, draw: NoiseDraw, context: NoiseContext) -> NoiseDraw:
        """Pairs all samples that it is given, in pools of at most `pool`; see trainer.protocols.NoiseStage.

        Waits for the device: the assignment is solved on the CPU.
        """
        import torch

        from ._draws import rows

        s, x, noise = self.settings, rows(context.clean), rows(draw.target).clone()
        acts = inside(s.timesteps, context.timesteps)
        paired = torch.arange(len(x), device=x.device) if acts is None else acts.nonzero()[:, 0]
        for pool in paired.split(self.pool if isinstance(self.pool, int) else max(1, len(paired))):
            for alike in self._alike(pool, context.captions):
                noise[alike] = _pair(x[alike], noise[alike], s.candidates, context.generator, s.precision)
        noise = noise.reshape(context.clean.shape)
        return replace(draw, target=noise, mixed=noise)

    def _alike(self, pool: Tensor, captions: Sequence[str]) -> Iterable[Tensor]:
        """The indices of a pool in the groups that are paired. Raises ValueError when their captions are not given."""
        if self.settings.by == "nothing":
            return [pool] if len(pool) else []
        import torch

        groups: dict[str, list[int]] = {}
        for index in pool.tolist():
            if index >= len(captions):
                raise ValueError(f"by = 'caption' needs the caption of every sample, found {len(captions)}")
            groups.setdefault(captions[index], []).append(index)
        return [torch.tensor(group, device=pool.device) for group in groups.values()]


PLUGIN = Assignment
