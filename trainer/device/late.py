"""Numbers on their way from the device to the host, which are read without waiting for what was asked of it since."""

from __future__ import annotations

import time

import torch
from torch import Tensor


class Late:
    """A copy of a few numbers, made behind the work that computes them.

    On a GPU the copy goes to page-locked memory and an event tells when it is there, so that `read` waits for no work
    that was queued later. Elsewhere the numbers are there already.
    """

    def __init__(self, values: Tensor) -> None:
        """values: (N,) on any device."""
        self._event: torch.cuda.Event | None = None
        self._made = time.monotonic()
        self._host = values.detach()
        if values.device.type == "cuda":
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values.detach(), non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> tuple[list[float], float]:
        """The numbers, and when (time.monotonic) they were there."""
        if self._event is None:
            return self._host.tolist(), self._made
        self._event.synchronize()
        return self._host.tolist(), time.monotonic()
