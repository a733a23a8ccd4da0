"""Where micro-batches come from, whatever they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from trainer.batch import Batch, TextStates
from trainer.data.dataset import Size


class Order(Protocol):
    """What each micro-batch of the endless stream holds; a pure function of the seed and its index."""

    @property
    def batches_per_epoch(self) -> int: ...

    def shapes(self) -> set[tuple[int, Size]]:
        """What batches there are: how many samples, and of which size in pixels."""
        ...

    def largest(self) -> int:
        """The index of a batch that asks for the most memory and, among those, for the most time."""
        ...

    def describe(self, index: int) -> str:
        """A batch in words: samples and size."""
        ...


class Source(Protocol):
    """Makes the batches of an order."""

    @property
    def plan(self) -> Order: ...

    @property
    def batch_size(self) -> int:
        """The most samples that a batch can hold."""
        ...

    def batch(self, index: int) -> Batch:
        """Micro-batch `index`, on the CPU. Raises UserError when it cannot be made."""
        ...

    def states(self, captions: Sequence[str]) -> TextStates | None:
        """Of any captions, on the CPU; None where text is not cached."""
        ...
