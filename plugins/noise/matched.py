"""A control for oversampling: noise with the same mean and variance given the latent, but nothing is selected.

Selection of the nearest of k changes the law of two numbers only, the noise's part along the latent and its length
(plugins/noise/_nearest.py). Training with this stage instead answers whether it does more than shift their mean and
variance, which is what a somewhat less noisy timestep would do.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from pydantic import model_validator

from ._gradients import without_gradients
from ._settings import ALL_TIMESTEPS, WINDOW_HELP, Metric, StageSettings, Window, inside, setting
from ._stage import Stage

if TYPE_CHECKING:
    from typing import Self

    import torch
    from torch import Tensor

    from trainer.batch import NoiseContext, NoiseDraw


@without_gradients
def matched_to(latents: Tensor, plain: Tensor, k: int, *, metric: Metric = "euclidean", among: int = 1) -> Tensor:
    """Plain noise moved and scaled so that, given the latent, its mean and covariance are those of nearest-of-k noise.

    latents: (B, ...), times the VAE scale; plain: N(0, I) of the same shape. Along the latent the noise gets the mean
    and variance of the chosen noise, across it the chosen noise's energy. Returns the shape and dtype of `plain`.
    """
    import torch

    from ._draws import rows
    from ._nearest import TINY, row_dot

    x, n = rows(latents), rows(plain)
    rho = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_(min=TINY)  # (B, 1)
    moments = _interpolated((rho / x.shape[1] ** 0.5).log_(), k, x.shape[1], metric, among)
    mean, variance, rest = moments.to(x.dtype).unbind(dim=1)  # (B,) each
    scale = rest.sqrt()[:, None]
    along = mean[:, None] + (variance.sqrt()[:, None] - scale) * row_dot(x, n) / rho
    return (n * scale + along / rho * x).reshape(plain.shape).to(plain.dtype)


@cache
def _table(k: int, dim: int, metric: Metric, among: int, device: torch.device) -> tuple[float, Tensor]:
    """Distance of the grid points in log(rms), and the moments there, (P, 3)."""
    import torch

    from ._moments import moments_table

    at, moments = moments_table(k, dim, metric, among)
    return float(at[1] - at[0]), torch.from_numpy(moments).float().to(device)


def _interpolated(log_rms: Tensor, k: int, dim: int, metric: Metric, among: int) -> Tensor:
    """mean, variance, rest for each row, (B, 1) -> (B, 3), linear between the points of the table."""
    import torch

    from ._moments import LEAST_RMS

    step, table = _table(k, dim, metric, among, log_rms.device)
    place = ((log_rms - math.log(LEAST_RMS)) / step).clamp(0, len(table) - 1.001)
    left = place.floor()
    index = left.long()[:, 0]
    return torch.lerp(table[index], table[index + 1], (place - left).to(table.dtype))


class MatchedSettings(StageSettings):
    k: int = setting(0, "Imitate oversampling with this k; 0 or 1 = off.", basic=True, ge=0, le=65536)
    metric: Metric = setting("euclidean", "Imitate oversampling with this metric.")
    among: int = setting(1, "Imitate oversampling with this `among`.", ge=1, le=65536)
    timesteps: Window = setting(ALL_TIMESTEPS, WINDOW_HELP)

    @model_validator(mode="after")
    def _among_at_most_k(self) -> Self:
        if self.k > 1 and self.among > self.k:
            raise ValueError(f"among = {self.among} is more than the k = {self.k} candidates there are")
        return self


class Matched(Stage):
    """A control for oversampling: noise with the same mean and variance given the latent, but nothing is selected.

    For experiments: it tells what selection does beyond a shift of the signal-to-noise ratio.
    """

    Settings = MatchedSettings
    headline = "k"
    phase = "pair"
    example: ClassVar[dict[str, object]] = {"k": 16}

    @classmethod
    def active(cls, settings: MatchedSettings) -> bool:
        return settings.k > 1

    @without_gradients
    def __call__(self, draw: NoiseDraw, context: NoiseContext) -> NoiseDraw:
        """Moves and scales the plain draw; see trainer.protocols.NoiseStage."""
        from ._draws import where_it_acts

        s = self.settings
        noise = matched_to(context.clean, draw.target, s.k, metric=s.metric, among=s.among)
        noise = where_it_acts(inside(s.timesteps, context.timesteps), noise, draw.target)
        return replace(draw, target=noise, mixed=noise)


PLUGIN = Matched
