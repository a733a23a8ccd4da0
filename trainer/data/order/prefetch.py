"""Makes the batches that come next while the present one trains."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from trainer.batch import Batch
from trainer.data.order.loader import Loader


class Prefetch:
    """A loader whose worker threads run ahead of it. Batches are the very same, whatever the number of workers.

    It expects to be asked for indices that rise by `stride` (the number of processes); after a jump it starts anew.
    Captions that were not prepared are encoded by the caller's thread, which owns the networks.
    """

    def __init__(self, loader: Loader, *, stride: int = 1, workers: int = 2, depth: int = 0, pin: bool = False) -> None:
        """workers: 0 = none; depth: batches ahead, twice the workers when 0; pin: put them into page-locked memory,
        from which a GPU copies without waiting."""
        self.loader = loader
        self._stride = stride
        self._depth = depth or 2 * workers
        self._pin = pin
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="loader") if workers else None
        self._coming: dict[int, Future[Batch]] = {}

    def batch(self, index: int) -> Batch:
        """Micro-batch `index`. Raises what the loader raises."""
        if self._pool is None:
            return self._pinned(self.loader.batch(index))
        if index not in self._coming:
            self._drop()
        for ahead in range(index, index + (self._depth + 1) * self._stride, self._stride):
            if ahead not in self._coming:
                self._coming[ahead] = self._pool.submit(self._make, ahead)
        made = self._coming.pop(index).result()
        complete = self.loader.with_text(made)
        return complete if complete is made else self._pinned(complete)

    def _make(self, index: int) -> Batch:
        return self._pinned(self.loader.without_text(index))

    def _pinned(self, batch: Batch) -> Batch:
        return pinned(batch) if self._pin else batch

    def _drop(self) -> None:
        for future in self._coming.values():
            future.cancel()
        self._coming.clear()

    def close(self) -> None:
        """Stops the workers."""
        self._drop()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def pinned(value: Any) -> Any:
    """The same with every tensor in page-locked memory; those in dataclasses and mappings too, at any depth."""
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, Mapping):
        return {name: pinned(one) for name, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: pinned(getattr(value, field.name)) for field in fields(value)})
    return value
