"""Two steps of an optimizer on a few numbers: what it cannot do is told before a run, not at its first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.optim.parameters import Group

SIDE = 8  # numbers along a side, at most


def attempt(kind: type[Any], groups: Sequence[Group], args: Mapping[str, Any]) -> None:
    """Raises UserError where the class takes no step with these arguments, on weights of these forms and devices.

    Weights and the random state stay as they are. Weights that are split among processes are passed over.
    """
    small = [replace(group, parameters=[_small(p) for p in group.parameters[:1]]) for group in groups]
    weights = [p for group in small for p in group.parameters]
    if not all(weight.numel() for weight in weights):
        return
    devices = {p.device for p in weights if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(list(devices)):
            _steps(kind([group.for_optimizer() for group in small], **args), weights)
    except Exception as error:  # whatever a library's step may raise
        raise UserError(
            f"optimizer.name: {kind.__name__} takes no step on these weights ({type(error).__name__}: {error}); "
            "choose another"
        ) from error


def _small(weight: Tensor) -> nn.Parameter:
    shape = [min(side, SIDE) for side in weight.shape]
    return nn.Parameter(torch.full(shape, 0.01, dtype=weight.dtype, device=weight.device))


def _steps(optimizer: Any, weights: Sequence[nn.Parameter]) -> None:
    getattr(optimizer, "train", lambda: None)()
    for _ in range(2):
        for weight in weights:
            weight.grad = torch.full_like(weight, 0.01)
        optimizer.step()
