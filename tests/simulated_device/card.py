"""What a card knows: which storages lie on it, what travels, who waited, what was launched, how many bytes it holds."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.simulated_device.places import Place, caller

HOST, DEVICE = torch.device("cpu"), torch.device("cuda", 0)
BLOCK = 512  # bytes: CUDA's allocator gives whole blocks
STAGED = 64 * 1024  # bytes of pageable memory that the driver takes along with the command (CUDA's documentation)


# Storages that any card of this process holds: a program may keep tensors from one to the next, as caches do.
_ON_A_CARD: set[int] = set()


class TwoDevicesError(RuntimeError):
    """Something of the host and something of the device where a card takes one of them."""


class EarlyReadError(RuntimeError):
    """Memory that a copy is still filling, or reading, was read or changed."""


@dataclass(frozen=True)
class Wait:
    """The host stood still until the device had done what was asked of it."""

    what: str
    where: Place

    def __str__(self) -> str:
        return f"{self.what} at {self.where}"


@dataclass
class Record:
    """What happened in a part of a program."""

    waits: list[Wait] = field(default_factory=list)
    kernels: Counter[tuple[str, Place]] = field(default_factory=Counter)  # by operation and caller

    @property
    def launched(self) -> int:
        return self.kernels.total()

    def by_caller(self) -> Counter[str]:
        """Kernels by the function of the project that launched them."""
        found: Counter[str] = Counter()
        for (_, where), count in self.kernels.items():
            found[f"{where.file}:{where.function}"] += count
        return found


class Card:
    """One device. A storage that it does not know lies on the host."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.allocated = self.peak = 0  # bytes
        self.allocations = 0
        self.others = 0  # bytes that other programs hold
        self.fails_at: int | None = None  # the number of the allocation for which there is no memory; counted from 1
        self.fails_from: int | None = None  # the same for this one and all that follow
        self.record = Record()
        self._sizes: dict[int, int] = {}  # of the storages on the device
        self._neutral: set[int] = set()  # made inside torch, where nobody said for which device
        self._pinned: set[int] = set()
        self._arriving: dict[int, int] = {}  # host storages that copies fill, and the number of the last one
        self._leaving: dict[int, int] = {}  # host storages that copies read
        self._copies = 0

    # Where tensors are.

    def on_device(self, tensor: Tensor) -> bool:
        return _key(tensor) in _ON_A_CARD

    def is_neutral(self, tensor: Tensor) -> bool:
        return _key(tensor) in self._neutral

    def device_of(self, tensor: Tensor) -> torch.device:
        if tensor.device.type != "cpu":  # meta
            return tensor.device
        return DEVICE if self.on_device(tensor) else HOST

    def put(self, tensor: Tensor) -> None:
        """The tensor lies on the device from now on. Raises torch.OutOfMemoryError."""
        key, storage = _key(tensor), tensor.untyped_storage()
        self._neutral.discard(key)
        if key in _ON_A_CARD:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self.allocations += 1
        full = self.fails_from is not None and self.allocations >= self.fails_from
        if full or self.allocations == self.fails_at or self.allocated + size > self.memory - self.others:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes (simulated).")
        self._sizes[key] = size
        _ON_A_CARD.add(key)
        self.allocated += size
        self.peak = max(self.peak, self.allocated)
        weakref.finalize(storage, self._forget, key)

    def leave_open(self, tensor: Tensor) -> None:
        """Made inside torch: it belongs to whatever it meets."""
        self._watch(tensor, self._neutral)

    def to_host(self, tensor: Tensor) -> None:
        key = _key(tensor)
        self._neutral.discard(key)
        _ON_A_CARD.discard(key)
        self.allocated -= self._sizes.pop(key, 0)

    def pin(self, tensor: Tensor) -> None:
        self._watch(tensor, self._pinned)

    def is_pinned(self, tensor: Tensor) -> bool:
        return _key(tensor) in self._pinned

    def _watch(self, tensor: Tensor, among: set[int]) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key not in among:
            among.add(key)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        _ON_A_CARD.discard(key)
        self.allocated -= self._sizes.pop(key, 0)
        for known in (self._neutral, self._pinned):
            known.discard(key)
        for travelling in (self._arriving, self._leaving):
            travelling.pop(key, None)

    # Waiting.

    def wait(self, what: str) -> None:
        """The host waits for everything that was queued."""
        self.wait_for(what, self._copies)

    def wait_for(self, what: str, copies: int) -> None:
        """The host waits until so many copies are done."""
        self.record.waits.append(Wait(what, caller()))
        self.finish(copies)

    def finish(self, copies: int) -> None:
        """So many copies are done."""
        for travelling in (self._arriving, self._leaving):
            for key in [key for key, number in travelling.items() if number <= copies]:
                del travelling[key]

    @property
    def queued(self) -> int:
        """Copies so far: what an event stands behind."""
        return self._copies

    def arrive(self, host: Tensor) -> None:
        """An asynchronous copy fills it."""
        self._copies += 1
        self._arriving[_key(host)] = self._copies

    def leave(self, host: Tensor) -> None:
        """An asynchronous copy reads it."""
        self._copies += 1
        self._leaving[_key(host)] = self._copies

    def sent(self, host: Tensor, *, non_blocking: bool) -> None:
        """A copy of host memory goes to the device. The driver takes one of memory that is not page-locked only when
        it has done what was asked before, but for small ones."""
        if not non_blocking:
            self.check_read(host)
            self.wait("a copy to the device")
        elif self.is_pinned(host):
            self.leave(host)
        else:
            self.check_read(host)
            if host.nbytes > STAGED:
                self.wait("a copy to the device from memory that is not page-locked")

    def fetched(self, host: Tensor, *, non_blocking: bool) -> None:
        """A copy of device memory goes to the host's."""
        if not non_blocking:
            self.wait("a copy to the host")
        elif self.is_pinned(host):
            self.arrive(host)
        else:
            self.wait("a copy to the host, to memory that is not page-locked")

    def check_read(self, tensor: Tensor) -> None:
        if _key(tensor) in self._arriving:
            raise EarlyReadError(f"read before the copy from the device is there: {caller()}")

    def check_write(self, tensor: Tensor) -> None:
        if _key(tensor) in self._arriving or _key(tensor) in self._leaving:
            raise EarlyReadError(f"changed while an asynchronous copy uses it: {caller()}")

    # Counting.

    def launch(self, operation: str) -> None:
        self.record.kernels[operation, caller()] += 1

    @contextmanager
    def recording(self) -> Iterator[Record]:
        """What happens inside, by itself."""
        before, self.record = self.record, Record()
        try:
            yield self.record
        finally:
            before.waits += self.record.waits
            before.kernels += self.record.kernels
            self.record = before


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
