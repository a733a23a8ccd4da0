"""The order of training as a pure function: which images every micro-batch of every epoch holds.

The stream of micro-batches is endless and the same for any number of processes and workers; nothing has to be saved to
continue it. Process r of W at micro-batch m of step s, with A micro-batches a step, takes batch ((s * A) + m) * W + r.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import accumulate

from trainer import randomness
from trainer.data.buckets import Size
from trainer.data.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Entry:
    """One presentation of an image."""

    item: int  # index into Dataset.items
    repeat: int  # which of its presentations in this epoch, from 0


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    epoch: int  # from 0
    index_in_epoch: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class _Pool:
    """Presentations that may share a batch: one dataset, one size."""

    batch_size: int
    members: array[int]  # positions in the list of all presentations

    @property
    def batches(self) -> int:
        return -(-len(self.members) // self.batch_size)


def global_index(step: int, micro_batch: int, accumulation: int, rank: int, world: int) -> int:
    """The index in the stream that a process takes; ranks and micro-batches never share one."""
    return (step * accumulation + micro_batch) * world + rank


class Plan:
    """Each epoch holds every image exactly `num_repeats` times: shuffled within its bucket, cut into batches (a short
    last one is kept), the batches shuffled. All of it from (seed, epoch)."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self._seed = seed
        items: array[int] = array("l")
        first: array[int] = array("l")  # position of each item's first presentation
        pools: dict[tuple[int, Size], _Pool] = {}
        for index, item in enumerate(dataset.items):
            pool = pools.setdefault((item.source.dataset, item.target), _Pool(dataset.batch_size(item), array("l")))
            first.append(len(items))
            pool.members.extend(range(len(items), len(items) + item.repeats))
            items.extend([index] * item.repeats)
        self._items, self._first, self._pools = items, first, [pools[key] for key in sorted(pools)]
        self._orders: dict[int, tuple[array[int], list[tuple[int, int]]]] = {}
        self.batches_per_epoch = sum(pool.batches for pool in self._pools)

    @property
    def samples_per_epoch(self) -> int:
        return len(self._items)

    def epoch_of(self, index: int) -> int:
        return index // self.batches_per_epoch

    def batch(self, index: int) -> PlannedBatch:
        """The batch at `index` >= 0 of the endless stream."""
        epoch, position = divmod(index, self.batches_per_epoch)
        order, cuts = self._order(epoch)
        start, stop = cuts[position]
        return PlannedBatch(epoch, position, tuple(self._entry(order[i]) for i in range(start, stop)))

    def _entry(self, presentation: int) -> Entry:
        item = self._items[presentation]
        return Entry(item, presentation - self._first[item])

    def _order(self, epoch: int) -> tuple[array[int], list[tuple[int, int]]]:
        """The shuffled presentations of an epoch, and the (start, stop) of its batches in order."""
        if epoch not in self._orders:
            # Two epochs are enough for readers on both sides of a border.
            self._orders = {e: order for e, order in self._orders.items() if abs(e - epoch) == 1}
            self._orders[epoch] = self._shuffled(epoch)
        return self._orders[epoch]

    def _shuffled(self, epoch: int) -> tuple[array[int], list[tuple[int, int]]]:
        random = randomness.python_random(self._seed, "order", epoch)
        order: array[int] = array("l")
        cuts: list[tuple[int, int]] = []
        for pool in self._pools:
            members = list(pool.members)
            random.shuffle(members)
            edges = accumulate((pool.batch_size for _ in range(pool.batches)), initial=len(order))
            end = len(order) + len(members)
            cuts += [(edge, min(edge + pool.batch_size, end)) for edge in edges if edge < end]
            order.extend(members)
        random.shuffle(cuts)
        return order, cuts
