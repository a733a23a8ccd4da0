"""Explorative modelling: of k noises the network's own loss chooses the one that trains.

As SimpleTuner offers it (xm_training_target = noise, xm_candidate_count), after "Explorative Modeling", which its
documentation names as arXiv 2607.27372: the candidate with the lowest loss trains, all others only cost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import model_validator

from ._settings import ALL_TIMESTEPS, WINDOW_HELP, StageSettings, Window, inside, setting
from ._stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from torch import Generator, Tensor

    from trainer.batch import NoiseContext, NoiseDraw


def explored(
    plain: Tensor, k: int, losses: Callable[[Tensor], Tensor], *, generator: Generator, rank: int = 1
) -> Tensor:
    """Of k noises for each sample the one with the rank-th lowest loss; rank 1 = the lowest.

    plain: candidate 0, (B, ...); losses: (B, ...) -> (B,), called once for each candidate. Costs k forward passes.
    Raises ValueError when rank is not in 1..k.
    """
    import torch

    from ._draws import normal

    if not 1 <= rank <= k:
        raise ValueError(f"rank must be in 1..k = 1..{k}, found {rank}")
    with torch.no_grad():
        candidates = [plain]
        candidates += [normal((*plain.shape,), generator, plain.device, plain.dtype) for _ in range(k - 1)]
        found = torch.stack([losses(one).float() for one in candidates])  # (k, B)
        chosen = found.argsort(dim=0, stable=True)[rank - 1]  # (B,)
        return torch.stack(candidates)[chosen, torch.arange(len(plain), device=plain.device)]


class ExploreSettings(StageSettings):
    k: int = setting(
        0,
        "Noises per sample, of which the network's own loss chooses one; 0 or 1 = off. Each costs a forward pass: "
        "k = 2 makes a step about 5/3 as long, k = 4 about 7/3.",
        basic=True,
        kohya=("xm_candidate_count",),
        ge=0,
        le=64,
    )
    rank: int = setting(1, "Which of them trains: 1 = the one with the lowest loss, k = with the highest.", ge=1, le=64)
    timesteps: Window = setting(ALL_TIMESTEPS, WINDOW_HELP)

    @model_validator(mode="after")
    def _rank_at_most_k(self) -> Self:
        if self.k > 1 and self.rank > self.k:
            raise ValueError(f"rank = {self.rank} is more than the k = {self.k} noises there are")
        return self


class Explore(Stage):
    """Explorative modelling: of k noises the network's own loss chooses the one that trains (arXiv 2607.27372).

    A step costs k forward passes more, without gradients, so that memory stays as it is. The plain draw is candidate 0.
    The losses are those of the noise before it is shaped or perturbed.
    """

    Settings = ExploreSettings
    headline = "k"
    phase = "pair"
    example: ClassVar[dict[str, object]] = {"k": 2}
    network = True

    @classmethod
    def active(cls, settings: ExploreSettings) -> bool:
        return settings.k > 1

    @classmethod
    def remark(cls, settings: ExploreSettings, batch_size: int, accumulation: int) -> str:
        return f"each step asks the network {settings.k} times more, forward only (k = {settings.k})"

    @classmethod
    def information(cls, settings: ExploreSettings, together: int) -> float:
        """Nats about the image in its noise, at most: whatever the losses are, the chosen noise is the one of a rank
        among k, whose divergence from a plain noise is the same as for any other score without ties."""
        return nth_information(settings.k, settings.rank)

    def __call__(self, draw: NoiseDraw, context: NoiseContext) -> NoiseDraw:
        """Replaces the plain draw by the chosen noise; see trainer.protocols.NoiseStage.

        Raises ValueError when the losses are not given.
        """
        from ._draws import where_it_acts

        plain, s = draw.target, self.settings
        if context.losses is None:
            raise ValueError("explore chooses by the network's losses, and none are given")
        noise = explored(plain, s.k, context.losses, generator=context.generator, rank=s.rank)
        noise = where_it_acts(inside(s.timesteps, context.timesteps), noise, plain)
        return replace(draw, target=noise, mixed=noise)


def nth_information(k: int, rank: int) -> float:
    """Divergence of the rank-th of k uniform numbers from a uniform one, in nats: minus the entropy of
    Beta(rank, k + 1 - rank). For the lowest: ln k - 1 + 1 / k."""
    from scipy.stats import beta

    return max(0.0, -float(beta.entropy(rank, k + 1 - rank))) if k > 1 else 0.0


PLUGIN = Explore
