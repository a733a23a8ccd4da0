"""What ends a step: clipping, and the optimizer's step, unless the gradients are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.optim.finite_update import FiniteUpdate
from trainer.optim.sharded_tensor import whole


class Update(Protocol):
    """`take` and `settle` are called in turns."""

    @property
    def waits(self) -> bool:
        """Whether each step waits for the device where another optimizer's would not."""
        ...

    @property
    def in_backward(self) -> bool:
        """Whether weights change while the backward pass runs, which leaves no gradients."""
        ...

    def take(self) -> Tensor:
        """After the backward passes of a step: the norm of its gradients before clipping, a scalar on the device. They
        are clipped and applied where it is finite; otherwise weights stay as they are."""
        ...

    def settle(self, finite: bool) -> None:
        """Whether the last norm was finite; afterwards the optimizer's state is as if a skipped step never was."""
        ...

    def trial(self, optimizer: Optimizer | None) -> AbstractContextManager[None]:
        """Around the backward passes of a step that is taken with another optimizer over the same weights, or with
        none."""
        ...


@dataclass
class Clipped:
    """Clips all gradients together, then lets the optimizer take its step."""

    accelerator: Accelerator
    optimizer: Optimizer  # wrapped by accelerate
    finite: FiniteUpdate
    max_norm: float  # 0 = none
    max_value: float  # the same
    in_backward: bool = False

    @property
    def waits(self) -> bool:
        return self.finite.waits

    def take(self) -> Tensor:
        norm = self._clip()
        self.finite.apply(norm.isfinite())
        return norm

    def settle(self, finite: bool) -> None:
        self.finite.settle(finite)

    @contextmanager
    def trial(self, optimizer: Optimizer | None) -> Iterator[None]:
        yield
        torch.nn.utils.clip_grad_norm_(self._weights(), self.max_norm or math.inf)
        if optimizer is not None:
            optimizer.step()

    def _clip(self) -> Tensor:
        norm = whole(self.accelerator.clip_grad_norm_(self._weights(), self.max_norm or math.inf))
        if self.max_value:
            torch.nn.utils.clip_grad_value_(self._weights(), self.max_value)
        return norm

    def _weights(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]
