"""Translates the pull of paired noise into a signal-to-noise ratio, and into the plain timestep that it acts as."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.protocols import Objective


@dataclass(frozen=True)
class SignalSchedule:
    """x_t = alpha_t x + sigma_t n for all timesteps of an objective, or as many times of a flow.

    Noise n = c x + s n' (c: its pull, s: its scale) makes that (alpha + sigma c) x + sigma s n': the input of a less
    noisy timestep, up to a factor. How noisy an input is, is measured by the angle
    atan(sigma / alpha), which exists for pure noise too (a zero-terminal schedule, flow matching).
    """

    alpha: NDArray[np.float64]  # (T,)
    sigma: NDArray[np.float64]  # (T,)
    flow: bool = False  # times are told as those of a flow, from 0 to 1

    @classmethod
    def of(cls, objective: Objective) -> SignalSchedule:
        alpha, sigma = objective.signal_and_noise(objective.schedule.evenly())
        return cls(alpha.double().cpu().numpy(), sigma.double().cpu().numpy(), objective.schedule.continuous)

    def __len__(self) -> int:
        return len(self.alpha)

    @property
    def angles(self) -> NDArray[np.float64]:
        """atan(sigma / alpha) of all timesteps, (T,): 0 = the image alone, pi / 2 = noise alone."""
        return np.arctan2(self.sigma, self.alpha)

    @property
    def landmarks(self) -> tuple[int, ...]:
        """The timesteps that are reported: 99, 499, 749 and 999 of 1000."""
        return tuple(max(0, len(self) * share // 100 - 1) for share in (10, 50, 75, 100))

    def place(self, t: float) -> float:
        """A timestep, or one that another acts as, in the unit that the base's users know."""
        return (t + 1) / len(self) if self.flow else t

    def told(self, t: float) -> str:
        return f"{self.place(t):.3f}" if self.flow else f"{t:.0f}"

    @property
    def ends_in_pure_noise(self) -> bool:
        return bool(self.alpha[-1] < 1e-4 * self.sigma[-1])

    def snr_multiplier(self, t: int, pull: float, scale: float) -> float | None:
        """By what the ratio of powers grows, (alpha x)^2 / (sigma n)^2; None where plain noise leaves no signal."""
        if self.alpha[t] < 1e-6:
            return None
        return float((1 + self.sigma[t] * pull / self.alpha[t]) ** 2 / scale**2)

    def acts_as(self, t: int, pull: float, scale: float) -> float:
        """The timestep whose plain input has the same signal-to-noise ratio, between 0 and T - 1."""
        angle = np.arctan2(self.sigma[t] * scale, self.alpha[t] + self.sigma[t] * pull)
        return float(np.interp(angle, self.angles, np.arange(len(self))))


def flow_time(pull: float, scale: float) -> float:
    """Flow matching trains on x_s = (1 - s) x + s n. At s = 1, where plain noise is all there is, paired noise
    c x + s n' acts as this time."""
    return scale / (pull + scale)


REFERENCE_PULL = 2 / math.sqrt(6) * 2.344 / math.sqrt(4096)
"""The pull of the authors' setting for Stable Diffusion: the nearest of 64 at 4 x 32 x 32 (arXiv 2505.18521), for
latents of variance 1. 2 / sqrt(6) is the correlation of a candidate's score with its part along the latent, 2.344 the
mean of the largest of 64 normal numbers."""
