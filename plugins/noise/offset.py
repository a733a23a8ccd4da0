"""Offset noise: every channel of a sample gets a common random shift, so that the network learns overall brightness.

Formulas: N. Guttenberg, "Diffusion with offset noise" (2023), with the random and adaptive strength of kohya's
sd-scripts, and the time-dependent form of T. Kutsuna, arXiv 2412.03134.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from ._gradients import without_gradients
from ._settings import StageSettings, setting
from ._stage import Stage

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor

    from trainer.batch import NoiseContext, NoiseDraw


def offset_like(noise: Tensor, generator: Generator) -> Tensor:
    """One N(0, 1) number per sample and channel, (B, C, 1, ...), to be added to noise of shape (B, C, ...)."""
    from ._draws import normal

    shape = (*noise.shape[:2], *(1 for _ in noise.shape[2:]))
    return normal(shape, generator, noise.device, noise.dtype)


def adaptive(strength: Tensor | float, scale: float, clean: Tensor) -> Tensor:
    """kohya's adaptive strength, (B, C, 1, ...): more by scale * |mean of the latent's channel|, and never below 0."""
    beyond = tuple(range(2, clean.ndim))
    mean = clean.mean(dim=beyond, keepdim=True) if beyond else clean
    return (strength + scale * mean.abs()).clamp(min=0)


def psi(alphas_cumprod: Tensor) -> Tensor:
    """Coefficients of the time-dependent offset for each timestep, (T,), rising to 1 at the last.

    arXiv 2412.03134, algorithm 1 (balanced phi and psi) with equation 22. The recursion telescopes: the sum in equation
    22 is proportional to (1 - a) / a for a = alphas_cumprod, hence psi to sqrt(1 - a) / a. The last alphas_cumprod
    must not be 0: with zero terminal SNR psi would be 0 at all other timesteps.
    """
    rising = (1 - alphas_cumprod).sqrt() / alphas_cumprod
    return rising / rising[-1]


@cache
def stable_diffusion_psi(device: torch.device) -> Tensor:
    """psi of the noise schedule of SD 1.x, 2.x and SDXL, (1000,) float32."""
    import torch

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    return psi((1 - betas).cumprod(dim=0)).float().to(device)


class OffsetSettings(StageSettings):
    strength: float = setting(
        0.0,
        "Strength of the shift that all pixels of a channel share; 0 = off. Usual: 0.05 to 0.1.",
        basic=True,
        ge=0,
        le=10,
    )
    random_strength: bool = setting(
        False,
        "Draw the strength of each micro-batch evenly between 0 and `strength`.",
    )
    adaptive: float = setting(
        0.0,
        "Add this times the absolute mean of each latent channel to the strength, which stays at least 0.",
        ge=-10,
        le=10,
    )
    time_dependent: bool = setting(
        False,
        "Scale the shift by the timestep: full at the noisiest, next to nothing below the middle (arXiv 2412.03134). "
        "Stable Diffusion's usual noise schedule is meant, also where zero-terminal-SNR changes it.",
    )


class Offset(Stage):
    """Offset noise: every channel of a sample gets a common random shift, so that overall brightness is learned.

    A property of the noise itself: the target has it too.
    """

    Settings = OffsetSettings
    headline = "strength"
    phase = "shape"
    example: ClassVar[dict[str, object]] = {"strength": 0.1, "adaptive": 0.1, "random_strength": True}

    @classmethod
    def active(cls, settings: OffsetSettings) -> bool:
        return settings.strength > 0

    @classmethod
    def metadata(cls, settings: OffsetSettings) -> dict[str, object]:
        """kohya's keys; None = off."""
        return {
            "ss_noise_offset": settings.strength or None,
            "ss_noise_offset_random_strength": settings.random_strength,
            "ss_adaptive_noise_scale": settings.adaptive or None,
        }

    @without_gradients
    def __call__(self, draw: NoiseDraw, context: NoiseContext) -> NoiseDraw:
        """Adds the offset to target and mixed noise; see trainer.protocols.NoiseStage."""
        s = self.settings
        strength: Tensor | float = s.strength
        if s.random_strength:
            from ._draws import random_strength

            strength = random_strength(s.strength, context.generator, draw.target)
        if s.adaptive:
            strength = adaptive(strength, s.adaptive, context.clean.to(draw.target.dtype))
        if s.time_dependent:
            at = context.timesteps.long().clamp(0, 999)
            shares = stable_diffusion_psi(at.device)[at]  # (B,)
            strength = strength * shares.reshape(-1, *(1 for _ in draw.target.shape[1:]))
        noise = draw.target + strength * offset_like(draw.target, context.generator)
        return replace(draw, target=noise, mixed=noise)


PLUGIN = Offset
