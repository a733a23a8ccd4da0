"""Follows the path of a flow with steps as long as an error bound allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainer.errors import UserError

TOLERANCE = 1e-5  # of the error in a step, relative and absolute: the usual one for flow matching


class Dopri5:
    """Dormand and Prince's method of order 5 (1980), scipy's RK45, which torchdiffeq calls dopri5."""

    adaptive = True

    def __init__(self, tolerance: float = TOLERANCE) -> None:
        self.tolerance = tolerance

    def solve(self, velocity: Callable[[Tensor, float], Tensor], start: Tensor) -> Tensor:
        """From noise at time 1 to the picture at time 0; all pictures of a batch take the same steps.

        velocity: of (x, time), shaped like x, which is float32. Raises UserError where no step is short enough.
        """
        from scipy.integrate import solve_ivp

        def slope(time: float, flat: Any) -> Any:
            x = torch.from_numpy(flat).to(start.device, torch.float32).reshape(start.shape)
            return velocity(x, time).detach().double().flatten().cpu().numpy()

        flat = start.detach().double().flatten().cpu().numpy()
        found = solve_ivp(slope, (1.0, 0.0), flat, method="RK45", rtol=self.tolerance, atol=self.tolerance)
        if not found.success:
            raise UserError(f"samples.sampler: 'dopri5' found no way from noise to picture ({found.message}).")
        return torch.from_numpy(found.y[:, -1]).to(start.device, torch.float32).reshape(start.shape)
