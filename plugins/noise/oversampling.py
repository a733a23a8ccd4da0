"""Noise Oversampling: of k noise candidates each sample gets the one nearest to its latent (arXiv 2505.18521).

Without the trainer:

    from plugins.noise.oversampling import nearest_of
    noise = nearest_of(latents, 64, generator=generator)  # instead of torch.randn_like(latents)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Generator, Tensor

from plugins.noise._draws import normal, rows
from plugins.noise._nearest import Metric, eager_nearest, lazy_nearest, rank_information
from plugins.noise._settings import ALL_TIMESTEPS, WINDOW_HELP, StageSettings, Window, inside, setting

if TYPE_CHECKING:
    from typing import Self

    from trainer.batch import NoiseDraw
    from trainer.protocols import Phase

Candidates = Literal["lazy", "eager"]
WAYS = {"lazy": lazy_nearest, "eager": eager_nearest}
MOST = 65536  # candidates; beyond it the pairs of scalars would weigh as much as the latents


@torch.no_grad()
def nearest_of(
    latents: Tensor,
    k: int,
    *,
    generator: Generator,
    metric: Metric = "euclidean",
    among: int = 1,
    candidates: Candidates = "lazy",
) -> Tensor:
    """Standard Gaussian noise for a diffusion model's training, chosen near to the latents.

    latents: (B, ...) with any number of trailing dimensions, times the VAE scale. For each of the B separately, k
    candidates are drawn from N(0, I) and the nearest is kept, or with `among` > 1 any of the `among` nearest. Returns
    noise with the shape, dtype and device of `latents`; use it both to mix with the latents and in the target.

    metric: "euclidean" distance, which also favours short noise, or "cosine", which leaves the length's law as it is.
    candidates: "lazy" draws the winner alone, from the same law and at the price of one draw, whatever k is; "eager"
    draws all k. The first candidate is the generator's next `torch.randn`, so that k = 1 is plain noise.
    Noise is made in float32 at least, and rounded to the dtype of `latents` at the end.

    Raises ValueError when k < 1 or `among` is not in 1..k.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}")
    if not 1 <= among <= k:
        raise ValueError(f"among must be in 1..k = 1..{k}, found {among}")
    x = rows(latents)
    noise = normal((*x.shape,), generator, x.device, x.dtype)
    if k > 1:
        noise = WAYS[candidates](x, noise, k, generator, metric, among)
    return noise.reshape(latents.shape).to(latents.dtype)


class OversamplingSettings(StageSettings):
    k: int = setting(
        0,
        "Noise candidates per sample: the one nearest to the sample's latent is used. 0 or 1 = off; 64 is the paper's "
        "choice for Stable Diffusion. Any number costs the same.",
        kohya=("knn_noise_k", "k_noise_sampling", "noise_oversampling", "immiscible_diffusion"),
        basic=True,
        ge=0,
        le=MOST,
    )
    metric: Metric = setting(
        "euclidean",
        "What near means. euclidean is the paper's, and also favours short noise; cosine looks at the direction only, "
        "so the length of the noise keeps its law.",
    )
    among: int = setting(1, "Use any one of the m nearest candidates instead of the nearest.", ge=1, le=MOST)
    candidates: Candidates = setting(
        "lazy",
        "lazy draws the winner alone, from exactly the same law; eager really draws all k, in k times the time.",
    )
    timesteps: Window = setting(ALL_TIMESTEPS, WINDOW_HELP)

    @model_validator(mode="after")
    def _among_at_most_k(self) -> Self:
        if self.k > 1 and self.among > self.k:
            raise ValueError(f"among = {self.among} is more than the k = {self.k} candidates there are")
        return self


class Oversampling:
    """Noise Oversampling: of k noise candidates each sample gets the one nearest to its latent (arXiv 2505.18521).

    The plain draw is candidate 0: runs with and without this stage differ only where another candidate won.
    """

    Settings: ClassVar[type[OversamplingSettings]] = OversamplingSettings
    headline: ClassVar[str] = "k"
    phase: ClassVar[Phase] = "pair"
    sweep: ClassVar[tuple[int, ...]] = tuple(2**n for n in range(1, 11))  # of k, for the noise report

    def __init__(self, settings: OversamplingSettings) -> None:
        self.settings = settings

    @classmethod
    def active(cls, settings: OversamplingSettings) -> bool:
        return settings.k > 1

    @classmethod
    def metadata(cls, settings: OversamplingSettings) -> dict[str, object]:
        """k under our name, and under the one of sd-scripts' own proposal, where 1 is plain noise."""
        return {"ss_noise_oversampling": settings.k, "ss_knn_noise_k": max(1, settings.k)}

    @classmethod
    def information(cls, settings: OversamplingSettings, together: int) -> float:
        """Nats about the image in its noise: the divergence of the chosen noise's law from the plain one's."""
        return rank_information(settings.k, settings.among)

    @torch.no_grad()
    def __call__(self, draw: NoiseDraw, clean: Tensor, timesteps: Tensor, generator: Generator) -> NoiseDraw:
        """Replaces the plain draw by the nearest candidate; see trainer.protocols.NoiseStage. Never waits for a GPU."""
        s = self.settings
        acts = inside(s.timesteps, timesteps)
        x, plain = rows(clean), rows(draw.target).clone()
        noise = WAYS[s.candidates](x, plain, s.k, generator, s.metric, s.among, acts).reshape(clean.shape)
        return replace(draw, target=noise, mixed=noise)


PLUGIN = Oversampling
