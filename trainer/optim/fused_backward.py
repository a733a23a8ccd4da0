"""Updates each weight as soon as the backward pass has its gradient, which is freed at once.

So the gradients of a whole model never take up memory, as with fused_backward_pass of kohya's sd-scripts and
OneTrainer's fused back pass. There is no moment at which all gradients exist: nothing can depend on all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.device.late import Late
from trainer.optim.piecewise import Piece, Piecewise


class FusedBackward:
    """Hooks on the weights of a `Piecewise` with one tensor in each piece. A weight whose gradient is not finite is
    left as it is; the others have been updated by then."""

    waits = False
    in_backward = True

    def __init__(self, optimizer: Piecewise, max_value: float = 0.0, wrapper: Any = None) -> None:
        """max_value: each number of a gradient is clipped to it, 0 = never; wrapper: of accelerate, which the schedule
        watches."""
        optimizer.in_backward = True
        self._wrapper = optimizer if wrapper is None else wrapper
        self._optimizer = optimizer
        self._max_value = max_value
        self._instead: Piecewise | None = optimizer
        self._stepped: list[Piece] = []  # in this step, in the order of the backward pass
        self._judged: list[Piece] = []  # in the step before it
        self._norms: list[Tensor] = []
        self._verdict: Late | None = None
        self._places = {piece.weights[0]: piece.place for piece in optimizer.pieces}
        for weight in self._places:
            weight.register_post_accumulate_grad_hook(self._hook)

    @torch.no_grad()
    def _hook(self, weight: Tensor) -> None:
        assert isinstance(weight, nn.Parameter)
        gradient = weight.grad
        assert gradient is not None
        norm = torch.linalg.vector_norm(gradient, dtype=torch.float32)
        if self._instead is not None:
            if self._instead is self._optimizer:
                self._settle_before()
            if self._max_value:
                gradient.clamp_(-self._max_value, self._max_value)
            piece = self._instead.pieces[self._places[weight]]
            self._instead.apply(piece, norm.isfinite())
            if self._instead is self._optimizer:
                self._stepped.append(piece)
                self._norms.append(norm)
        weight.grad = None

    def _settle_before(self) -> None:
        """What the host knows of the last step must be right before the optimizer's next one."""
        if self._verdict is not None:
            flags, _ = self._verdict.read()
            self._verdict = None
            for piece, flag in zip(self._judged, flags, strict=True):
                piece.update.settle(flag > 0)

    def take(self) -> Tensor:
        """Counts the step; the backward pass has done it."""
        norms = torch.stack(self._norms)
        self._verdict = Late(norms.isfinite().float())
        self._judged, self._stepped, self._norms = self._stepped, [], []
        self._wrapper.step()
        return torch.linalg.vector_norm(norms)

    def settle(self, finite: bool) -> None:
        self._settle_before()

    @contextmanager
    def trial(self, optimizer: Optimizer | None) -> Iterator[None]:
        assert optimizer is None or isinstance(optimizer, Piecewise)
        self._instead = optimizer
        try:
            yield
        finally:
            self._instead = self._optimizer
