"""Measures what a pairing stage does to the noise of given latents: a pure function of latents and stage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from trainer.batch import NoiseContext, NoiseDraw
from trainer.protocols import NoiseStage
from trainer.randomness import generator

NUMBERS_AT_ONCE = 2**22  # in one call: 16 MB of float32
MOST_POOLS = 512  # solved for one setting
LEAST_ROUNDS = 2  # the drift is estimated across rounds
DUPLICATE = 1e-5  # of the largest: eigenvalues below are directions that no latent has


@dataclass(frozen=True)
class FlatLatents:
    """Latents of one shape, flattened, in float32 on the device where noise is made."""

    shape: tuple[int, ...]  # of one, e.g. (C, h, w)
    x: Tensor  # (I, D), times the VAE scale
    captions: tuple[str, ...] = ()  # (I), where they are known

    @classmethod
    def of(cls, stacked: Tensor, captions: Sequence[str] = ()) -> FlatLatents:
        """stacked: (I, C, h, w), or any number of trailing dimensions."""
        return cls(tuple(stacked.shape[1:]), stacked.flatten(1).float(), tuple(captions))

    def context(self, rows: Tensor, timestep: int, stream: Generator) -> NoiseContext:
        """What a stage is told of some of the latents; rows: (B,) indices."""
        clean, places = self.x[rows.to(self.x.device)].reshape(-1, *self.shape), rows.tolist()
        return NoiseContext(
            clean,
            torch.full((len(rows),), timestep, device=clean.device),
            stream,
            captions=tuple(self.captions[i] if self.captions else "" for i in places),
            images=tuple(f"image {i}" for i in places),
        )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def dimension(self) -> int:
        """D: how many numbers a latent has."""
        return math.prod(self.shape)

    @property
    def rms(self) -> float:
        """Root mean square of all the numbers; about 1 for Stable Diffusion's latents of photographs."""
        return float(self.x.square().mean(dim=1).mean().sqrt())

    @cached_property
    def lengths(self) -> Tensor:
        """(I,): |x| of each; a latent of zeros counts as very short."""
        return torch.linalg.vector_norm(self.x, dim=1).clamp_(min=1e-20)

    @property
    def common_share(self) -> float:
        """How much of the latents' energy is the mean latent of the whole set, 0..1, without bias for small sets:
        the mean product of two different latents over the mean square of one. 0 for a single image."""
        count = len(self)
        if count < 2:
            return 0.0
        own = self.x.square().sum()
        pairs = self.x.sum(dim=0).square().sum() - own
        return float((pairs / (count - 1) / own).clamp(0, 1))

    @cached_property
    def own(self) -> Tensor:
        """(I, D): what sets each latent apart, x minus the mean of all; x itself where nothing would be left of it."""
        apart = self.x - self.x.mean(dim=0)
        return apart if float(apart.square().sum()) > DUPLICATE * float(self.x.square().sum()) else self.x

    @cached_property
    def span(self) -> Tensor:
        """(r, D): orthonormal directions of everything that the latents can tell apart, r <= I.

        Noise paired with these latents has no mean outside their span: nothing there prefers a direction.
        """
        gram = (self.x @ self.x.T).double()  # (I, I)
        values, vectors = torch.linalg.eigh(gram.cpu())
        kept = values > DUPLICATE * values[-1].clamp(min=1e-30)
        whitening = (vectors[:, kept] / values[kept].sqrt()).T.to(self.x)  # (r, I)
        return whitening @ self.x


@dataclass(frozen=True)
class Effect:
    """What pairing did, over all draws. Given the latent x, the noise is n = c x + w, w across x.

    A stage that gives out the noises of a pool has no pull towards what all latents have in common, so its pull counts
    towards what sets a latent apart (`Latents.own`). Where candidates compete for one latent, both are the same.
    """

    distance_drop_percent: float  # how much shorter |n - x| is on average than with plain noise
    alignment_sigma: float  # E[n.x / |x|], 0 for plain noise
    cosine: float  # E[n.x / (|n| |x|)], 0 for plain noise
    variance_change_percent: float  # of E[|n|^2 / D], which is 1 for plain noise
    pull: float  # c, as E[n.y] / E[|y|^2] with y = x, or `own` for a pool: how much of the image is in its noise
    scale: float  # root mean square of w per direction, 1 for plain noise
    drift_sigma: float  # |E[n]| over images and draws; 0 for plain noise
    draws: int


def effect(
    stage: NoiseStage, latents: FlatLatents, *, draws: int, timestep: int = 0, together: int = 0, seed: int = 0
) -> Effect:
    """Runs `stage` on the latents about `draws` times and averages.

    together: how many different latents are paired at once, for a stage that pairs a pool; 0 = each for itself.
    """
    stream = generator(seed, "noise report", device=latents.x.device)
    towards = latents.own if together else latents.x
    means: list[Tensor] = []  # of the noise over all the latents, in their span, (rounds, r)
    sums, count = torch.zeros(len(_SUMMED), dtype=torch.float64), 0
    for rounds, at_once in _rounds(len(latents), latents.dimension, draws, together, stream):
        total = latents.x.new_zeros(len(rounds), latents.dimension)
        for part in rounds.split(at_once, dim=1):
            rows = part.flatten()
            noise = _paired(stage, latents, rows, timestep, stream)
            sums += _sums(noise, latents.x[rows], towards[rows], latents.lengths[rows])
            total += noise.unflatten(0, part.shape).sum(dim=1)
        count += rounds.numel()
        # Noise that comes again has a mean in directions that no latent has, too.
        means.append((total if stage.repeats else total @ latents.span.T) / rounds.shape[1])
    mean = dict(zip(_SUMMED, (sums / count).tolist(), strict=True))
    return Effect(
        distance_drop_percent=100 * (1 - mean["distance"] / mean["plain distance"]),
        alignment_sigma=mean["along"],
        cosine=mean["cosine"],
        variance_change_percent=100 * (mean["energy"] / latents.dimension - 1),
        pull=mean["towards"] / max(1e-30, mean["square"]),
        scale=math.sqrt(mean["energy across"] / max(1, latents.dimension - 1)),
        drift_sigma=_length_of_mean(torch.cat(means)),
        draws=count,
    )


def paired_together(stage: NoiseStage, batch_size: int, accumulation: int = 1) -> int:
    """How many samples a stage pairs at once; 0 = each for itself (`pool` of trainer.protocols.NoiseStage)."""
    if isinstance(stage.pool, str):
        return {"batch": batch_size, "step": batch_size * accumulation}[stage.pool]
    return stage.pool


def _rounds(images: int, dimension: int, draws: int, together: int, stream: Generator) -> Iterator[tuple[Tensor, int]]:
    """Yields (R, n) indices of latents, R rounds over n of them, and how many columns of it make one call.

    A pool is a call of its own, and is never filled up with copies, so that a round may leave some latents out.
    """
    usable = images // together * together if together else images
    wanted = min(draws, MOST_POOLS * together) if together else draws
    left = max(LEAST_ROUNDS, math.ceil(wanted / usable))
    at_once = max(1, NUMBERS_AT_ONCE // dimension)
    while left > 0:
        count = 1 if together else min(left, max(1, at_once // usable))
        order = torch.randperm(images, generator=stream, device=stream.device)[:usable]
        yield order.repeat(count, 1), together or max(1, at_once // count)
        left -= count


def _paired(stage: NoiseStage, latents: FlatLatents, rows: Tensor, timestep: int, stream: Generator) -> Tensor:
    """(B, D): the noise that the stage gives to some of the latents."""
    context = latents.context(rows, timestep, stream)
    plain = torch.randn(context.clean.shape, generator=stream, device=stream.device).to(context.clean.device)
    return stage(NoiseDraw(plain, plain), context).target.flatten(1).float()


_SUMMED = ("distance", "plain distance", "along", "cosine", "towards", "square", "energy", "energy across")


def _sums(noise: Tensor, x: Tensor, y: Tensor, length: Tensor) -> Tensor:
    """Sums over the rows of what `_SUMMED` names, in float64; noise, x and y: (B, D), length: |x|, (B,)."""
    dim = x.shape[1]
    along = ((noise * x).sum(dim=1) / length).double()
    energy, length = noise.square().sum(dim=1).double(), length.double()
    distance = (energy - 2 * along * length + length.square()).clamp(min=0).sqrt()
    summed = [
        distance,
        plain_distance(length, dim),
        along,
        along / energy.clamp(min=1e-30).sqrt(),
        (noise * y).sum(dim=1).double(),
        y.square().sum(dim=1).double(),
        energy,
        (energy - along.square()).clamp(min=0),
    ]
    return torch.stack([each.sum() for each in summed]).cpu()


def plain_distance(length: Tensor, dim: int) -> Tensor:
    """E|n - x| for n ~ N(0, I) and |x| = length: the mean of a noncentral chi, from the first four cumulants of its
    square, 2^(m-1) (m-1)! (D + m |x|^2). Right to 1e-3 from 10 dimensions on, to 1e-6 from 1000 on."""
    square = length.square()
    mean = dim + square
    spread = (2 * dim + 4 * square) / mean**2  # variance, relative
    third = (8 * dim + 24 * square) / mean**3
    fourth = 3 * spread**2 + (48 * dim + 192 * square) / mean**4
    return mean.sqrt() * (1 - spread / 8 + third / 16 - 5 * fourth / 128)


def _length_of_mean(means: Tensor) -> float:
    """|E[m]| from independent m (R, r), without the bias of their own scatter: products of different ones only."""
    rounds = len(means)
    pairs = means.sum(dim=0).square().sum() - means.square().sum()
    return math.sqrt(max(0.0, float(pairs) / (rounds * (rounds - 1))))


def acting_timesteps(stage: NoiseStage, timesteps: int, device: torch.device) -> list[int]:
    """Some of the timesteps 0..timesteps-1, ascending, at which the stage changes noise at all: it may be told to leave
    others alone. Tried at about 50 of them, on random latents."""
    probes = torch.linspace(0, timesteps - 1, 51).round().long()
    tries = 16  # the plain noise may happen to be the one that is chosen
    stream = generator(0, "noise report probes", device=device)
    at = probes.repeat_interleave(tries).to(device)
    shape = (len(at), 4, 4, 4)
    clean, plain = (torch.randn(shape, generator=stream, device=stream.device).to(device) for _ in range(2))
    context = NoiseContext(clean, at, stream, ("",) * len(at), tuple(map(str, range(len(at)))))
    changed = (stage(NoiseDraw(plain, plain), context).target != plain).flatten(1).any(dim=1)
    return probes[changed.reshape(-1, tries).any(dim=1).cpu()].tolist()
