"""The order of training as a pure function: which images every micro-batch of every epoch holds.

The stream of micro-batches is endless and the same for any number of processes and workers; nothing has to be saved to
continue it. Process r of W at micro-batch m of step s, with A micro-batches a step, takes batch ((s * A) + m) * W + r.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass

from trainer import randomness
from trainer.data.dataset import Dataset, Size


@dataclass(frozen=True, slots=True)
class Presentation:
    """One presentation of an image."""

    item: int  # index into Dataset.items
    repeat: int  # which of its presentations in this epoch, from 0


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    epoch: int  # from 0
    index_in_epoch: int
    entries: tuple[Presentation, ...]


@dataclass(frozen=True, slots=True)
class _Pool:
    """Images that may share a batch: those of one dataset and one size. Each is listed once per repeat."""

    batch_size: int
    own: array[int]
    regularisation: array[int]
    quota: int  # how many of `regularisation` an epoch takes

    @property
    def samples(self) -> int:
        return len(self.own) + self.quota

    @property
    def batches(self) -> int:
        return -(-self.samples // self.batch_size)

    def of_epoch(self, epoch: int) -> list[int]:
        """The images of one epoch. Regularisation images are taken in turn, so that each of them trains in the end."""
        there = len(self.regularisation)
        first = epoch * self.quota
        return [*self.own, *(self.regularisation[(first + i) % there] for i in range(self.quota))]


class Plan:
    """Each epoch holds every image exactly `num_repeats` times, and of the regularisation images of a dataset as many
    as it has others: shuffled within their bucket, cut into batches (a short last one is kept), the batches shuffled.
    All of it from (seed, epoch)."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self._seed = seed
        self._pools = _pools(dataset)
        self._orders: dict[int, _Order] = {}
        self.batches_per_epoch = sum(pool.batches for pool in self._pools)
        self.samples_per_epoch = sum(pool.samples for pool in self._pools)

    def epoch_of(self, index: int) -> int:
        return index // self.batches_per_epoch

    def batch(self, index: int) -> PlannedBatch:
        """The batch at `index` >= 0 of the endless stream."""
        epoch, position = divmod(index, self.batches_per_epoch)
        order = self._orders.get(epoch)
        if order is None:
            order = _ordered(self._pools, epoch, self._seed)
            # Two epochs are enough for readers on both sides of a border.
            self._orders = {e: o for e, o in self._orders.items() if abs(e - epoch) == 1} | {epoch: order}
        start, stop = order.cuts[position]
        entries = (Presentation(order.items[i], order.repeats[i]) for i in range(start, stop))
        return PlannedBatch(epoch, position, tuple(entries))

    def times_per_epoch(self) -> list[float]:
        """How often each item trains in an epoch; of regularisation images, on average."""
        times = [0.0] * len(self.dataset.items)
        for pool in self._pools:
            for item in pool.own:
                times[item] += 1
            for item in pool.regularisation:
                times[item] += pool.quota / len(pool.regularisation)
        return times

    def lines(self) -> list[str]:
        """How often the images of each subset train in an epoch, and in which batches: for the console."""
        times = self.times_per_epoch()
        counts: dict[str, list[float]] = {}
        for item, often in zip(self.dataset.items, times, strict=True):
            counts.setdefault(item.source.where, []).append(often)
        found = [
            f"{where}: {len(often):,} images, each {_range(often)} times an epoch" for where, often in counts.items()
        ]
        sizes = ", ".join(f"{count:,} of {size}" for size, count in sorted(self.batch_sizes().items(), reverse=True))
        return [
            *found,
            f"an epoch: {self.samples_per_epoch:,} samples in {self.batches_per_epoch:,} batches ({sizes})",
        ]

    def shapes(self) -> set[tuple[int, Size]]:
        """What batches there are: how many images, and of which size."""
        return {
            (count, self.dataset.items[[*pool.own, *pool.regularisation][0]].target)
            for pool in self._pools
            for count in (min(pool.batch_size, pool.samples), pool.samples % pool.batch_size)
            if count
        }

    def largest(self) -> int:
        """The index of the batch with the most pixels in the first epoch."""

        def pixels(index: int) -> int:
            items = [self.dataset.items[entry.item] for entry in self.batch(index).entries]
            return sum(item.target[0] * item.target[1] for item in items)

        return max(range(self.batches_per_epoch), key=pixels)

    def describe(self, index: int) -> str:
        """A batch in words: images and size."""
        entries = self.batch(index).entries
        width, height = self.dataset.items[entries[0].item].target
        return f"{len(entries)} x {width}x{height}"

    def batch_sizes(self) -> Counter[int]:
        """How many batches of each size an epoch has: short ones end a bucket."""
        sizes: Counter[int] = Counter()
        for pool in self._pools:
            whole, rest = divmod(pool.samples, pool.batch_size)
            sizes += Counter({pool.batch_size: whole, rest: int(rest > 0)})
        return sizes


def _range(numbers: list[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


@dataclass(frozen=True, slots=True)
class _Order:
    """One epoch: its samples, batch by batch, and the (start, stop) of the batches in the order of training."""

    items: array[int]
    repeats: array[int]
    cuts: list[tuple[int, int]]


def _ordered(pools: list[_Pool], epoch: int, seed: int) -> _Order:
    random = randomness.python_random(seed, "order", epoch)
    items: array[int] = array("l")
    cuts: list[tuple[int, int]] = []
    for pool in pools:
        members = pool.of_epoch(epoch)
        random.shuffle(members)
        begin, end = len(items), len(items) + len(members)
        cuts += [(edge, min(edge + pool.batch_size, end)) for edge in range(begin, end, pool.batch_size)]
        items.extend(members)
    random.shuffle(cuts)
    seen: Counter[int] = Counter()
    repeats: array[int] = array("l")
    for item in items:
        repeats.append(seen[item])
        seen[item] += 1
    return _Order(items, repeats, cuts)


def _pools(dataset: Dataset) -> list[_Pool]:
    own: dict[tuple[int, Size], array[int]] = {}
    regularisation: dict[tuple[int, Size], array[int]] = {}
    for index, item in enumerate(dataset.items):
        kind = regularisation if item.source.is_reg else own
        kind.setdefault((item.source.dataset, item.target), array("l")).extend([index] * item.repeats)
    quotas: dict[tuple[int, Size], int] = {}
    for number in range(len(dataset.groups)):
        wanted = sum(len(members) for key, members in own.items() if key[0] == number)
        quotas |= _quotas({key: len(members) for key, members in regularisation.items() if key[0] == number}, wanted)
    nothing: array[int] = array("l")
    return [
        _Pool(
            dataset.groups[key[0]].batch_size,
            own.get(key, nothing),
            regularisation.get(key, nothing),
            quotas.get(key, 0),
        )
        for key in sorted(own.keys() | regularisation.keys())
    ]


def _quotas(sizes: dict[tuple[int, Size], int], wanted: int) -> dict[tuple[int, Size], int]:
    """How many regularisation images of each bucket an epoch takes: `wanted` in all, shared out by the buckets' sizes
    with the largest remainders rounded up, but at least one each, or some would never train."""
    total = sum(sizes.values())
    shares = {key: divmod(wanted * size, total) for key, size in sizes.items()}
    left = wanted - sum(whole for whole, _ in shares.values())
    rounded_up = sorted(shares, key=lambda key: (-shares[key][1], key))[:left]
    return {key: max(1, whole + (key in rounded_up)) for key, (whole, _) in shares.items()}
