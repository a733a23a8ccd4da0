"""kohya's rank dropout and module dropout for plain LoRA layers, as hooks on peft's two factors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def add_rank_dropout(down: nn.Module, share: float) -> None:
    """Each sample loses `share` of the ranks while training; the others are scaled up to keep the expectation."""

    def drop(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        axis = 1 if output.ndim == 4 and isinstance(module, nn.Conv2d) else output.ndim - 1
        shape = [output.shape[0] if axis else 1] + [1] * (output.ndim - 1)
        shape[axis] = output.shape[axis]
        kept = torch.rand(shape, device=output.device) >= share
        return output * kept / (1 - share)

    down.register_forward_hook(drop)


def add_module_dropout(up: nn.Module, share: float) -> None:
    """The whole adapter of a layer is skipped in `share` of its uses while training, unscaled as in kohya's trainer."""

    def skip(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        # Drawn on the CPU and multiplied in: no synchronisation with the device.
        return output * float(torch.rand(()) >= share) if module.training else output

    up.register_forward_hook(skip)
