"""Input perturbation: the network sees noisier latents than its target admits (arXiv 2301.11706)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ._gradients import without_gradients
from ._settings import StageSettings, setting
from ._stage import Stage

if TYPE_CHECKING:
    from trainer.batch import NoiseContext, NoiseDraw


class PerturbationSettings(StageSettings):
    gamma: float = setting(
        0.0,
        "Strength of the extra noise that is mixed in but not predicted; 0 = off. The paper's choice is 0.1.",
        basic=True,
        ge=0,
        le=10,
    )
    random_strength: bool = setting(
        False,
        "Draw the strength of each micro-batch evenly between 0 and `gamma`.",
    )


class Perturbation(Stage):
    """Input perturbation: extra noise that is mixed in but not part of the target (arXiv 2301.11706).

    It makes the network robust against its own errors while sampling.
    """

    Settings = PerturbationSettings
    headline = "gamma"
    phase = "perturb"
    example: ClassVar[dict[str, object]] = {"gamma": 0.1}

    @classmethod
    def active(cls, settings: PerturbationSettings) -> bool:
        return settings.gamma > 0

    @classmethod
    def metadata(cls, settings: PerturbationSettings) -> dict[str, object]:
        """kohya's keys; None = off."""
        return {
            "ss_ip_noise_gamma": settings.gamma or None,
            "ss_ip_noise_gamma_random_strength": settings.random_strength,
        }

    @without_gradients
    def __call__(self, draw: NoiseDraw, context: NoiseContext) -> NoiseDraw:
        """Adds to the mixed noise only; see trainer.protocols.NoiseStage."""
        from ._draws import normal, random_strength

        s, mixed = self.settings, draw.mixed
        gamma = random_strength(s.gamma, context.generator, mixed) if s.random_strength else s.gamma
        extra = normal((*mixed.shape,), context.generator, mixed.device, mixed.dtype)
        return replace(draw, mixed=mixed + gamma * extra)


PLUGIN = Perturbation
