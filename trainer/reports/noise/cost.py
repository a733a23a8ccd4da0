"""Measures what a call costs on this device: milliseconds, and bytes beyond what was held before."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from trainer.device.live_memory import LiveMemory

WARM_UP = 1  # calls


def milliseconds(call: Callable[[], Tensor], device: torch.device, least: float = 0.1) -> float:
    """Median time of a call over at least `least` seconds and 5 calls, the device's work included."""

    def once() -> float:
        start = time.perf_counter()
        call()
        _wait(device)
        return time.perf_counter() - start

    for _ in range(WARM_UP):
        once()
    times: list[float] = []
    while len(times) < 5 or (sum(times) < least and len(times) < 1000):
        times.append(once())
    return 1000 * statistics.median(times)


def peak_bytes(call: Callable[[], Tensor], device: torch.device) -> int | None:
    """What torch held at most during a call beyond what it held before, the result included: the allocator's count on
    CUDA, the sum of the living tensors on the CPU; None on other devices, where neither is kept."""
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        _wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    with LiveMemory(block=1) as memory:
        call()
    return memory.peak


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
