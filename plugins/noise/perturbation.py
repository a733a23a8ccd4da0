"""Input perturbation: the network sees noisier latents than its target admits (arXiv 2301.11706)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Generator, Tensor

from plugins.noise._draws import normal, random_strength
from plugins.noise._settings import StageSettings, setting

if TYPE_CHECKING:
    from trainer.batch import NoiseDraw
    from trainer.protocols import Phase


class PerturbationSettings(StageSettings):
    gamma: float = setting(
        0.0,
        "Strength of the extra noise that is mixed in but not predicted; 0 = off. The paper's choice is 0.1.",
        kohya=("ip_noise_gamma", "input_perturbation", "perturbation_noise_weight"),
        basic=True,
        ge=0,
        le=10,
    )
    random_strength: bool = setting(
        False,
        "Draw the strength of each micro-batch evenly between 0 and `gamma`.",
        kohya=("ip_noise_gamma_random_strength",),
    )


class Perturbation:
    """Input perturbation: extra noise that is mixed in but not part of the target (arXiv 2301.11706).

    It makes the network robust against its own errors while sampling.
    """

    Settings: ClassVar[type[PerturbationSettings]] = PerturbationSettings
    headline: ClassVar[str] = "gamma"
    phase: ClassVar[Phase] = "perturb"

    def __init__(self, settings: PerturbationSettings) -> None:
        self.settings = settings

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

    @torch.no_grad()
    def __call__(self, draw: NoiseDraw, clean: Tensor, timesteps: Tensor, generator: Generator) -> NoiseDraw:
        """Adds to the mixed noise only; see trainer.protocols.NoiseStage."""
        s, mixed = self.settings, draw.mixed
        gamma = random_strength(s.gamma, generator, mixed) if s.random_strength else s.gamma
        extra = normal((*mixed.shape,), generator, mixed.device, mixed.dtype)
        return replace(draw, mixed=mixed + gamma * extra)


PLUGIN = Perturbation
