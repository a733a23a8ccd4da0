"""A card for tests: the simulated one in every run of the suite, and the machine's own where there is one.

    def test_something(any_card: AnyCard) -> None:
        with any_card.waits() as waits:
            ...
        assert waits == []

Both tell who made the host wait. torch.cuda.set_sync_debug_mode is of no use for that: it sees neither
torch.cuda.synchronize nor events nor asynchronous copies from and to memory that is not page-locked. A real card is
watched by torch's profiler instead, which sees every call of the CUDA runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from tests.simulated_device import Card, simulated_card

WATCHED = "watched by the test"
SYNCHRONISING = (
    "cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy", "hipDeviceSynchronize",
    "hipStreamSynchronize", "hipEventSynchronize",
)  # fmt: skip
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class AnyCard(Protocol):
    def waits(self) -> AbstractContextManager[list[str]]:
        """The list is full when the block has ended."""

    def allocated(self) -> int:
        """Bytes of tensors on the card, without the workspaces of CUDA's libraries."""

    def peak(self) -> AbstractContextManager[list[int]]:
        """Most bytes within the block beyond those at its beginning: one number, when it has ended."""


@dataclass
class Simulated:
    card: Card

    @contextmanager
    def waits(self) -> Iterator[list[str]]:
        found: list[str] = []
        with self.card.recording() as seen:
            yield found
        found += [wait.what for wait in seen.waits]

    def allocated(self) -> int:
        return self.card.allocated

    @contextmanager
    def peak(self) -> Iterator[list[int]]:
        found: list[int] = []
        before = self.card.peak = self.card.allocated
        yield found
        found.append(self.card.peak - before)


class Real:
    @contextmanager
    def waits(self) -> Iterator[list[str]]:
        found: list[str] = []
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            with record_function(WATCHED):
                yield found
            torch.cuda.synchronize()
        found += waits_among(seen.events() or [])

    def allocated(self) -> int:
        torch.cuda.synchronize()
        clear_workspaces()
        return torch.cuda.memory_allocated()

    @contextmanager
    def peak(self) -> Iterator[list[int]]:
        found: list[int] = []
        before = self.allocated()
        torch.cuda.reset_peak_memory_stats()
        yield found
        torch.cuda.synchronize()
        found.append(torch.cuda.max_memory_allocated() - before)


def clear_workspaces() -> None:
    """cuBLAS' memory (32 MiB on Hopper, 8 elsewhere) lies among the tensors' and is kept from the first product on."""
    clear: Callable[[], None] = getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)
    clear()


def waits_among(events: Iterable[Any]) -> list[str]:
    """What made the host wait while the block named `WATCHED` ran: calls of the runtime inside it, by their times, and
    copies between the card and memory that is not page-locked, of which the host takes part."""
    events = list(events)
    (block,) = [event.time_range for event in events if event.name == WATCHED and event.device_type.name == "CPU"]
    calls = [
        event.name
        for event in events
        if event.name in SYNCHRONISING and block.start <= event.time_range.start <= block.end
    ]
    return calls + [event.name for event in events if event.name.startswith("Memcpy") and "Pageable" in event.name]


@contextmanager
def _simulated() -> Iterator[AnyCard]:
    with simulated_card() as card:
        yield Simulated(card)


@contextmanager
def _real() -> Iterator[AnyCard]:
    yield Real()


ON_BOTH = (
    pytest.param(_simulated, id="simulated"),
    pytest.param(_real, id="real", marks=[pytest.mark.gpu, NEEDS_CUDA]),
)


@pytest.fixture(params=ON_BOTH)
def any_card(request: pytest.FixtureRequest) -> Iterator[AnyCard]:
    with request.param() as found:
        yield found


@pytest.fixture
def pictures_are_encoded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a card; a CPU takes them one by one, which rounds otherwise (tests/plugins/models/test_families.py)."""
    from plugins.models import _vae

    monkeypatch.setattr(_vae, "portions", lambda vae, pixels: (pixels,))
