"""The weights that are saved, sampled and measured, where they are not the trained ones: averages over the steps.

Either an exponential moving average (diffusers' EMAModel), or what a schedule-free optimizer shows in its eval mode
(Defazio et al. 2024, arXiv 2405.15682), or the trained weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim import Optimizer


class Averages:
    """The averages of one run's trained weights."""

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        decay: float = 0.0,
        every: int = 1,
        *,
        on_cpu: bool = False,
    ) -> None:
        """decay 0 = no moving average; every: steps between its updates; on_cpu: it lies in the host's memory."""
        self._weights, self._optimizer, self._every = dict(weights), optimizer, every
        self._average: EMAModel | None = None
        if decay:
            # Rises as (1 + n) / (10 + n) until it reaches `decay`: early steps do not keep the start alive.
            self._average = EMAModel(list(self._weights.values()), decay=decay, foreach=True)
            if on_cpu:
                self._average.to("cpu")
        self.training_mode()

    def update(self, step: int) -> None:
        """Called after each finished step."""
        if self._average is not None and step % self._every == 0:
            self._average.step(list(self._weights.values()))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the modules hold the averages; after it exactly, bit for bit, what they held before."""
        if self._average is None and not self._is_schedule_free:
            yield
            return
        before = [weight.detach().clone() for weight in self._weights.values()]
        try:
            if self._is_schedule_free:
                self._optimizer.eval()  # type: ignore[attr-defined]
            if self._average is not None:
                self._average.copy_to(list(self._weights.values()))
            yield
        finally:
            self.training_mode()
            with torch.no_grad():
                # The optimizer's own way back to its training mode rounds; the copies do not.
                for weight, old in zip(self._weights.values(), before, strict=True):
                    weight.copy_(old)

    def training_mode(self) -> None:
        if self._is_schedule_free:
            self._optimizer.train()  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """Everything to continue exactly; empty when there is no average."""
        if self._average is None:
            return {}
        shadows: dict[str, Tensor] = dict(zip(self._weights, self._average.shadow_params, strict=True))
        return {"updates": self._average.optimization_step, "shadows": shadows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._average is None or not state:
            return
        self._average.optimization_step = state["updates"]
        for shadow, name in zip(self._average.shadow_params, self._weights, strict=True):
            shadow.copy_(state["shadows"][name])

    @property
    def _is_schedule_free(self) -> bool:
        """Whether the optimizer keeps other weights for use than for training."""
        kind = type(getattr(self._optimizer, "optimizer", self._optimizer))
        return callable(getattr(kind, "eval", None)) and callable(getattr(kind, "train", None))
