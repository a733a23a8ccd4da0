"""Noise Oversampling: of k noise candidates each sample gets the one nearest to its latent (arXiv 2505.18521).

Without the trainer:

    from plugins.noise.oversampling import nearest_of
    noise = nearest_of(latents, 64, generator=generator)  # instead of torch.randn_like(latents)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from ._gradients import without_gradients
from ._settings import ALL_TIMESTEPS, WINDOW_HELP, Metric, StageSettings, Window, inside, setting
from ._stage import Stage

if TYPE_CHECKING:
    from typing import Self

    from torch import Generator, Tensor

    from trainer.batch import NoiseContext, NoiseDraw

    from ._moments import Moments

Candidates = Literal["lazy", "eager"]
Score = Literal["full", "coarse"]
BLOCK = 8  # latent pixels along a side of a block
MOST = 65536  # candidates; beyond it the pairs of scalars would weigh as much as the latents


@without_gradients
def nearest_of(
    latents: Tensor,
    k: int,
    *,
    generator: Generator,
    metric: Metric = "euclidean",
    among: int = 1,
    candidates: Candidates = "lazy",
    block: int = 1,
) -> Tensor:
    """Standard Gaussian noise for a diffusion model's training, chosen near to the latents.

    latents: (B, ...) with any number of trailing dimensions, times the VAE scale. For each of the B separately, k
    candidates are drawn from N(0, I) and the nearest is kept, or with `among` > 1 any of the `among` nearest. Returns
    noise with the shape, dtype and device of `latents`; use it both to mix with the latents and in the target.

    metric: "euclidean" distance, which also favours short noise, or "cosine", which leaves the length's law as it is.
    candidates: "lazy" draws the winner alone, from the same law and at the price of one draw, whatever k is; "eager"
    draws all k. The first candidate is the generator's next `torch.randn`, so that k = 1 is plain noise.
    block: compare the means over blocks of so many latent pixels squared, of the last two dimensions, instead of all
    numbers; a block counts with the numbers that it has.
    Noise is made in float32 at least, and rounded to the dtype of `latents` at the end.

    Raises ValueError when k < 1, `among` is not in 1..k, block < 1, or there are no two dimensions for blocks.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}")
    if not 1 <= among <= k:
        raise ValueError(f"among must be in 1..k = 1..{k}, found {among}")
    if block < 1 or (block > 1 and latents.dim() < 3):
        raise ValueError(
            f"block must be 1, or more for latents (B, ..., h, w), found {block} for {latents.dim()} dimensions"
        )
    from ._blocks import Blocks
    from ._draws import normal, rows
    from ._nearest import WAYS

    x = rows(latents)
    noise = normal((*x.shape,), generator, x.device, x.dtype)
    if k > 1:
        blocks = Blocks(latents.shape, block) if block > 1 else None
        noise = WAYS[candidates](x, noise, k, generator, metric, among, blocks=blocks)
    return noise.reshape(latents.shape).to(latents.dtype)


class OversamplingSettings(StageSettings):
    k: int = setting(
        0,
        "Noise candidates per sample: the one nearest to the sample's latent is used. 0 or 1 = off; 64 is the paper's "
        "choice for Stable Diffusion. Any number costs the same.",
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
    score: Score = setting(
        "full",
        "What is compared of latent and noise: full = all numbers, the paper's way; coarse = the means over blocks, as "
        "some trainers do. coarse leaves all fine detail of the noise plain and pulls its low frequencies alone: about "
        "as hard along the image's coarse shapes, and not at all along the rest.",
    )
    block: int = setting(BLOCK, 'With score = "coarse": the side of a block.', unit="latent pixels", ge=2, le=256)
    timesteps: Window = setting(ALL_TIMESTEPS, WINDOW_HELP)

    @model_validator(mode="after")
    def _among_at_most_k(self) -> Self:
        if self.k > 1 and self.among > self.k:
            raise ValueError(f"among = {self.among} is more than the k = {self.k} candidates there are")
        return self

    @model_validator(mode="after")
    def _block_of_a_coarse_score(self) -> Self:
        if self.score == "full" and self.block != BLOCK:
            raise ValueError(f'block = {self.block} has no meaning with score = "full", which compares all numbers')
        return self


class Oversampling(Stage):
    """Noise Oversampling: of k noise candidates each sample gets the one nearest to its latent (arXiv 2505.18521).

    The plain draw is candidate 0: runs with and without this stage differ only where another candidate won.
    """

    Settings = OversamplingSettings
    headline = "k"
    phase = "pair"
    example: ClassVar[dict[str, object]] = {"k": 16}
    sweep = tuple(2**n for n in range(1, 11))  # of k, for the noise report

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
        from ._nearest import rank_information

        return rank_information(settings.k, settings.among)

    @classmethod
    def moments(cls, settings: OversamplingSettings, dim: int, rms: float) -> Moments | None:
        """None for a coarse score: its pull depends on what of the latent lies in the means."""
        if settings.score == "coarse":
            return None
        from ._moments import winner_moments

        return winner_moments(settings.k, dim, rms, settings.metric, settings.among)

    @without_gradients
    def __call__(self, draw: NoiseDraw, context: NoiseContext) -> NoiseDraw:
        """Replaces the plain draw by the nearest candidate; see trainer.protocols.NoiseStage. Never waits for a GPU."""
        from ._blocks import Blocks
        from ._draws import rows
        from ._nearest import WAYS

        s = self.settings
        blocks = Blocks(context.clean.shape, s.block) if s.score == "coarse" else None
        acts = inside(s.timesteps, context.timesteps)
        x, plain = rows(context.clean), rows(draw.target)
        noise = WAYS[s.candidates](x, plain, s.k, context.generator, s.metric, s.among, acts, blocks)
        noise = noise.reshape(context.clean.shape)
        return replace(draw, target=noise, mixed=noise)


PLUGIN = Oversampling
