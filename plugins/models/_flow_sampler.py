"""Samples along rectified flow's straight paths in pipelines that expect an older scheduler's interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor


class FlowSampler(FlowMatchEulerDiscreteScheduler):
    """Euler steps from noise share 1 to 0 in equal parts; the network is asked at the timestep T * share - 1, as the
    flow objective trains it on a base of discrete timesteps."""

    init_noise_sigma = 1.0
    first = 1  # what the first timestep stands for, of T

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        return sample

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None, **_: Any) -> None:
        shares = np.linspace(1, 1 / num_inference_steps, num_inference_steps)
        super().set_timesteps(num_inference_steps, device=device, sigmas=shares.tolist())  # type: ignore[misc]
        self.timesteps: Tensor = self.timesteps - self.first

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Under the name of diffusers' own class, which every reader knows."""
        known: Any = FlowMatchEulerDiscreteScheduler
        known.from_config(dict(self.__dict__["_internal_dict"])).save_pretrained(save_directory, **kwargs)


class TimeFlowSampler(FlowSampler):
    """The same for a base of continuous times, asked at T * share."""

    first = 0
