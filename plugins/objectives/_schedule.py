"""The signal and noise scales of a discrete noise schedule, looked up by timestep."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.batch import NoiseSchedule
from trainer.errors import UserError


class DiscreteSchedule:
    """x_t = alpha_t * clean + sigma_t * noise with alpha_t^2 = alphas_cumprod[t] and alpha_t^2 + sigma_t^2 = 1.

    Ho et al. 2020, arXiv 2006.11239, equation 4.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        """Raises UserError for a flow."""
        if schedule.alphas_cumprod is None:
            raise UserError(
                "model.prediction: this base is a flow, which has no discrete noise schedule; leave 'auto'."
            )
        self.schedule = schedule
        exact = schedule.alphas_cumprod.detach().to("cpu", torch.float64)
        self._alpha = exact.sqrt().float()  # (timesteps,)
        self._sigma = (1 - exact).sqrt().float()  # (timesteps,)

    def signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), each (B,) float32 on the device of `timesteps` (B,), which are whole numbers."""
        if self._alpha.device != timesteps.device:
            self._alpha, self._sigma = self._alpha.to(timesteps.device), self._sigma.to(timesteps.device)
        index = timesteps.long()
        return self._alpha[index], self._sigma[index]

    def noisy(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t, of the shape of `clean` (B, ...)."""
        alpha, sigma = self._scales(clean, timesteps)
        return alpha * clean + sigma * noise

    def _scales(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), each (B, 1, ..., 1) so that it multiplies a tensor shaped like `like`."""
        alpha, sigma = self.signal_and_noise(timesteps)
        return per_sample(alpha, like), per_sample(sigma, like)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1) with as many dimensions as `like`."""
    return values.reshape((-1,) + (1,) * (like.ndim - 1))
