"""Measures what a call costs on this device: milliseconds, and bytes beyond what was held before."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
    with _Held() as held:
        call()
    return held.most


class _Held(TorchDispatchMode):
    """Adds up the memory of the tensors that operations make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._tensors: dict[int, int] = {}  # living tensors by the address of the storage that was made here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_address(t) for t in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            address, size = _address(tensor), tensor.untyped_storage().nbytes()
            if address in self._tensors:
                self._tensors[address] += 1
            elif address in given:
                continue  # a view of something older
            else:
                self._tensors[address] = 1
                self.now += size
                self.most = max(self.most, self.now)
            weakref.finalize(tensor, self._gone, address, size)
        return result

    def _gone(self, address: int, size: int) -> None:
        self._tensors[address] -= 1
        if not self._tensors[address]:
            del self._tensors[address]
            self.now -= size


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
