"""The loss of each sample: error function, mask, mean, and its weight by timestep.

Order: elementwise error in float32 -> mask -> mean over C, h, w -> (B,) -> sample weights -> timestep weights -> mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["l2", "l1", "huber", "smooth_l1"]
HuberSchedule = Literal["constant", "exponential", "snr"]
Weighting = Literal["none", "min_snr", "soft_min_snr", "debiased", "p2"]
SNR_CAP = 1000.0  # as kohya's sd-scripts: beyond it the debiased and v-like weights no longer move
SNR_FLOOR = 1e-8  # zero terminal SNR: the ratios below stay finite


@dataclass(frozen=True)
class Noisiness:
    """What a loss may depend on besides prediction and target."""

    timesteps: Tensor  # (B,)
    snr: Tensor  # (B,) float32, alpha^2 / sigma^2 of the schedule that is trained
    predicts_noise: bool  # the objective is epsilon
    steps: int  # of the noise schedule: timesteps are from 0 to this


@dataclass(frozen=True)
class Loss:
    """One run's loss function. Defaults are the plain mean squared error."""

    kind: Kind = "l2"
    huber_c: float = 0.1
    huber_scale: float = 1.0
    huber_schedule: HuberSchedule = "snr"
    weighting: Weighting = "none"
    gamma: float = 5.0
    scale_v_like_noise: bool = False
    v_like: float = 0.0
    normalize_masked_area: bool = False

    def per_sample(self, prediction: Tensor, target: Tensor, at: Noisiness, mask: Tensor | None = None) -> Tensor:
        """(B, C, h, w) -> (B,), without weights. A mask (B, 1, h, w) scales each cell's error; the mean counts all,
        or, where areas are normalised, as much as the mask does (OneTrainer's normalize_masked_area_loss)."""
        found = masked_mean(self._error(prediction.float(), target.float(), at), mask)
        if mask is None or not self.normalize_masked_area:
            return found
        return found / mask.flatten(1).mean(1).clamp(min=1 / mask[0].numel())  # a mask without any cell has no error

    def timestep_weights(self, at: Noisiness) -> Tensor:
        """(B,): the product of all weightings that are on."""
        snr = at.snr.clamp(min=SNR_FLOOR)
        weight = WEIGHTINGS[self.weighting](snr, self.gamma, at.predicts_noise)
        if self.scale_v_like_noise:
            capped = snr.clamp(max=SNR_CAP)
            weight = weight * capped / (capped + 1)
        if self.v_like:
            weight = weight * (1 + self.v_like * (snr + 1) / snr)
        return weight

    def _error(self, prediction: Tensor, target: Tensor, at: Noisiness) -> Tensor:
        difference = prediction - target
        if self.kind == "l2":
            return difference**2
        if self.kind == "l1":
            return difference.abs()
        c = self._huber_c(at).view(-1, *[1] * (difference.ndim - 1))
        smooth = (difference**2 + c**2).sqrt() - c
        return 2 * c * smooth if self.kind == "huber" else 2 * smooth

    def _huber_c(self, at: Noisiness) -> Tensor:
        """(B,): where the error turns from quadratic to linear; kohya's three schedules."""
        if self.huber_schedule == "constant":
            return torch.full_like(at.snr, self.huber_c * self.huber_scale)
        if self.huber_schedule == "exponential":
            return self.huber_c ** (at.timesteps.float() / at.steps) * self.huber_scale
        sigma = at.snr.clamp(min=SNR_FLOOR) ** -0.5  # of the variance-exploding form, sqrt((1 - abar) / abar)
        return (1 - self.huber_c) / (1 + sigma) ** 2 + self.huber_c


def masked_mean(error: Tensor, mask: Tensor | None) -> Tensor:
    """(B, C, ..., h, w) and (B, 1, h, w) -> (B,)"""
    if mask is not None:
        error = error * mask.reshape(len(mask), *(1 for _ in error.shape[1:-2]), *mask.shape[-2:])
    return error.flatten(1).mean(1)


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """(B,), (B,) -> scalar. Divides by B, not by the weights' sum: a weight is a strength, not a share."""
    return (losses * weights).mean()


def no_weight(snr: Tensor, gamma: float, predicts_noise: bool) -> Tensor:
    return torch.ones_like(snr)


def min_snr(snr: Tensor, gamma: float, predicts_noise: bool) -> Tensor:
    """Hang et al. 2023, arXiv 2303.09556: min(SNR, gamma) on the clean latents, in terms of what is predicted."""
    return snr.clamp(max=gamma) / (snr if predicts_noise else snr + 1)


def soft_min_snr(snr: Tensor, gamma: float, predicts_noise: bool) -> Tensor:
    """Crowson et al. 2024, arXiv 2401.11605: the smooth form, SNR * gamma / (SNR + gamma) on the clean latents."""
    return snr * gamma / (snr + gamma) / (snr if predicts_noise else snr + 1)


def debiased(snr: Tensor, gamma: float, predicts_noise: bool) -> Tensor:
    """Yu et al. 2023, arXiv 2310.08442, with the SNR capped and v's form as in kohya's sd-scripts."""
    capped = snr.clamp(max=SNR_CAP)
    return capped**-0.5 if predicts_noise else 1 / (capped + 1)


def p2(snr: Tensor, gamma: float, predicts_noise: bool) -> Tensor:
    """Choi et al. 2022, arXiv 2204.00227, with k = 1: (1 + SNR)^-gamma on the noise, in terms of what is predicted."""
    return (1 + snr) ** -gamma * (1 if predicts_noise else snr / (1 + snr))


WEIGHTINGS = {"none": no_weight, "min_snr": min_snr, "soft_min_snr": soft_min_snr, "debiased": debiased, "p2": p2}
