"""What takes the place of torch.cuda's functions and classes, and of torch's parts that ask for a card themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.utils.checkpoint

from tests.simulated_device.calls import real
from tests.simulated_device.card import DEVICE, Card

NAME = "Simulated GPU"


class Generators(type(torch.Generator)):  # type: ignore[misc]
    """Of torch.Generator's stand-in: torch's own generators are instances of it, too."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _Generator)


_Generator = torch.Generator


class Generator(_Generator, metaclass=Generators):
    """Draws on the CPU, and says that it is where it was asked to be."""

    _on: torch.device

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        made._on = real(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._on


class Stream:
    def __init__(self, card: Card) -> None:
        self._card = card
        self.device = DEVICE
        self.cuda_stream = self.stream_id = 0

    def synchronize(self) -> None:
        self._card.wait("stream.synchronize")

    def query(self) -> bool:
        self._card.finish(self._card.queued)
        return True

    def wait_stream(self, stream: Any) -> None:
        """All streams are one queue."""

    def wait_event(self, event: Any) -> None:
        """All streams are one queue."""

    def record_event(self, event: Event | None = None) -> Event:
        event = Event(self._card) if event is None else event
        event.record()
        return event

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Event:
    """Stands behind the copies that were queued when it was recorded."""

    def __init__(self, card: Card) -> None:
        self._card, self._behind = card, 0

    def record(self, stream: Any = None) -> None:
        self._behind = self._card.queued

    def synchronize(self) -> None:
        self._card.wait_for("event.synchronize", self._behind)

    def query(self) -> bool:
        self._card.finish(self._behind)
        return True

    def wait(self, stream: Any = None) -> None:
        """All streams are one queue."""

    def elapsed_time(self, other: Event) -> float:
        return 1.0


def functions(card: Card) -> dict[str, Any]:
    """What stands in torch.cuda."""
    properties = SimpleNamespace(
        name=NAME, total_memory=card.memory, major=9, minor=0, multi_processor_count=132, gcnArchName=""
    )
    stream = Stream(card)

    def always(value: Any) -> Callable[..., Any]:
        return lambda *_, **__: value

    return {
        "_initialized": True,
        "_lazy_init": always(None),
        "_lazy_call": always(None),
        "init": always(None),
        "is_initialized": lambda: card.allocations > 0,
        "is_available": always(True),
        "is_bf16_supported": always(True),
        "is_current_stream_capturing": always(False),
        "device_count": always(1),
        "current_device": always(0),
        "set_device": real,
        "device": lambda device: nullcontext(real(0 if device is None else device)),
        "get_device_name": always(NAME),
        "get_device_capability": always((9, 0)),
        "get_device_properties": always(properties),
        "mem_get_info": lambda *_: (card.memory - card.allocated - card.others, card.memory),
        "memory_allocated": lambda *_: card.allocated,
        "memory_reserved": lambda *_: card.allocated,
        "max_memory_allocated": lambda *_: card.peak,
        "max_memory_reserved": lambda *_: card.peak,
        "reset_peak_memory_stats": lambda *_: setattr(card, "peak", card.allocated),
        "empty_cache": always(None),
        "ipc_collect": always(None),
        "synchronize": lambda *_: card.wait("torch.cuda.synchronize"),
        "set_sync_debug_mode": always(None),
        "manual_seed": always(None),
        "manual_seed_all": always(None),
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
        "get_rng_state_all": lambda: [torch.zeros(16, dtype=torch.uint8)],
        "set_rng_state": always(None),
        "set_rng_state_all": always(None),
        "Stream": _of(card, Stream),
        "Event": _of(card, Event),
        "stream": lambda one: nullcontext() if one is None else one,
        "current_stream": always(stream),
        "default_stream": always(stream),
    }


def _of(card: Card, kind: type[Any]) -> type[Any]:
    """A class, as torch's are: libraries that are imported meanwhile use it in their annotations."""
    return type(kind.__name__, (kind,), {"__init__": lambda self, *_, **__: kind.__init__(self, card)})


def _on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """A question about autocast of a device, answered for the CPU, whose autocast takes the place of CUDA's."""

    def ask(device: str = "cuda", *more: Any) -> Any:
        return function("cpu" if device == "cuda" else device, *more)

    return ask


def _autocast(init: Callable[..., None]) -> Callable[..., None]:
    def begin(self: Any, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: Any = None) -> None:
        if device_type == "cuda":
            dtype = torch.float16 if dtype is None else dtype
        init(self, "cpu" if device_type == "cuda" else device_type, dtype, enabled, cache_enabled)

    return begin


def _by_device(card: Card) -> Callable[..., Any]:
    """How torch's optimizers and clipping group tensors: by the first of their lists."""

    def group(lists: Any, with_indices: bool = False) -> Any:
        found: dict[Any, tuple[list[list[Any]], list[int]]] = {}
        for place, first in enumerate(lists[0]):
            rows, indices = found.setdefault((card.device_of(first), first.dtype), ([[] for _ in lists], []))
            for row, tensors in zip(rows, lists, strict=True):
                if len(tensors) > place:
                    row.append(tensors[place])
            indices.append(place)
        return found

    return group


def _description(card: Card) -> Callable[[Any], dict[str, Any]]:
    """What checkpointing compares of a tensor; it asks from inside of operations, which know no modes."""
    return lambda tensor: {"shape": tensor.shape, "dtype": tensor.dtype, "device": card.device_of(tensor)}


@contextmanager
def standing_in(card: Card) -> Iterator[None]:
    autocast = torch.amp.autocast_mode.autocast
    with (
        mock.patch.multiple(torch.cuda, create=True, **functions(card)),
        mock.patch.object(torch, "Generator", Generator),
        mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", _by_device(card)),
        mock.patch.dict(torch.utils.checkpoint._allowed_determinism_checks_to_fns, default=_description(card)),
        mock.patch.object(autocast, "__init__", _autocast(autocast.__init__)),
        mock.patch.object(torch, "is_autocast_enabled", _on_cpu(torch.is_autocast_enabled)),
        mock.patch.object(torch, "get_autocast_dtype", _on_cpu(torch.get_autocast_dtype)),
    ):
        yield
