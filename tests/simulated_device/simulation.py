"""Puts the parts of the simulated card together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import bitsandbytes  # noqa: F401  (it looks for a card when it is imported, and would look for its kernels' library)
import torch
from accelerate.state import AcceleratorState, GradientState

from tests.simulated_device.calls import Calls
from tests.simulated_device.card import Card
from tests.simulated_device.kernels import Kernels
from tests.simulated_device.stand_ins import standing_in


@contextmanager
def simulated_card(*, memory: int = 80 << 30, fails_at: int | None = None) -> Iterator[Card]:
    """Inside, this process has a card with so many bytes. fails_at: the allocation for which there is none left,
    counted from 1. Whoever trained before or trains after on the CPU is not disturbed."""
    card = Card(memory)
    card.fails_at = fails_at
    _forget_devices()
    try:
        with standing_in(card), _everywhere(card):
            yield card
    finally:
        _forget_devices()


@contextmanager
def _everywhere(card: Card) -> Iterator[None]:
    """The modes in this thread, in every new one, and in backward passes, which torch runs without the first one."""
    run, backward = threading.Thread.run, torch.autograd._engine_run_backward

    def watched(thread: threading.Thread) -> None:
        with Kernels(card), Calls(card):
            run(thread)

    def back(*args: Any, **kwargs: Any) -> Any:
        with Calls(card):
            return backward(*args, **kwargs)

    with (
        mock.patch.object(threading.Thread, "run", watched),
        mock.patch.object(torch.autograd, "_engine_run_backward", back),
        Kernels(card),
        Calls(card),
    ):
        yield


def _forget_devices() -> None:
    """accelerate keeps its device for the life of the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
