"""Every epoch holds every image exactly num_repeats times, in an order that nothing but the seed changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config.schema.data import DatasetOptions, SubsetOptions
from trainer.data.dataset import Dataset, ImageItem, SubsetSource
from trainer.data.order.plan import Plan
from trainer.parallel.stream import global_index

SIZES = ((64, 64), (64, 128), (128, 64))


def dataset(tables: list[tuple[int, list[tuple[int, list[int]]]]]) -> Dataset:
    """tables: (batch size, [(repeats, [size of each image])])."""
    items: list[ImageItem] = []
    sources: list[SubsetSource] = []
    groups = tuple(DatasetOptions(batch_size=batch_size) for batch_size, _ in tables)
    for index, (_, subsets) in enumerate(tables):
        for repeats, sizes in subsets:
            source = SubsetSource("", index, Path(), SubsetOptions(num_repeats=repeats))
            sources.append(source)
            for size in sizes:
                target = SIZES[size]
                items.append(ImageItem(str(len(items)), ("",), target, target, (0, 0), target, source))
    return Dataset(tuple(items), groups, tuple(sources))


SUBSETS = st.tuples(st.integers(1, 4), st.lists(st.integers(0, 2), min_size=1, max_size=7))
DATASETS = st.lists(
    st.tuples(st.integers(1, 5), st.lists(SUBSETS, min_size=1, max_size=3)), min_size=1, max_size=3
).map(dataset)


@given(DATASETS, st.integers(0, 2**63 - 1), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_holds_every_image_exactly_its_repeats(data: Dataset, seed: int, epoch: int) -> None:
    plan = Plan(data, seed)
    seen: Counter[tuple[int, int]] = Counter()
    for position in range(plan.batches_per_epoch):
        batch = plan.batch(epoch * plan.batches_per_epoch + position)
        assert (batch.epoch, batch.index_in_epoch) == (epoch, position)
        items = [data.items[entry.item] for entry in batch.entries]
        assert len({(item.source.dataset, item.target) for item in items}) == 1
        assert 1 <= len(items) <= data.batch_size(items[0])
        seen.update((entry.item, entry.repeat) for entry in batch.entries)
        assert (len(items), items[0].target) in plan.shapes()
    assert len(plan.shapes()) == len(
        {(len(b.entries), data.items[b.entries[0].item].target) for b in map(plan.batch, range(plan.batches_per_epoch))}
    )
    assert set(seen.values()) == {1}
    assert seen.keys() == {(i, r) for i, item in enumerate(data.items) for r in range(item.repeats)}
    assert plan.samples_per_epoch == len(seen)


@given(DATASETS, st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_processes_and_accumulation_share_one_stream(data: Dataset, world: int, accumulation: int) -> None:
    steps = 6
    taken = [
        global_index(step, micro, accumulation, rank, world)
        for step in range(steps)
        for micro in range(accumulation)
        for rank in range(world)
    ]
    # In this order of nesting the stream is walked one by one: disjoint, complete, in order.
    assert taken == list(range(steps * accumulation * world))
    alone, shared = Plan(data, 7), Plan(data, 7)
    assert [alone.batch(i) for i in taken] == [shared.batch(i) for i in reversed(taken)][::-1]


def test_only_the_last_batch_of_a_bucket_is_short() -> None:
    plan = Plan(dataset([(4, [(1, [0] * 10 + [1] * 3)])]), 0)
    sizes = sorted(len(plan.batch(i).entries) for i in range(plan.batches_per_epoch))
    assert sizes == [2, 3, 4, 4]


def test_epochs_and_seeds_differ_and_are_reproducible() -> None:
    data = dataset([(2, [(1, [0] * 30)])])

    def order(seed: int, epoch: int) -> list[int]:
        plan = Plan(data, seed)
        span = range(epoch * plan.batches_per_epoch, (epoch + 1) * plan.batches_per_epoch)
        return [entry.item for i in span for entry in plan.batch(i).entries]

    orders = [order(seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(o) for o in orders}) == 4
    assert order(1, 1) == orders[1]
    assert Plan(data, 1).epoch_of(14) == 0 and Plan(data, 1).epoch_of(15) == 1


def test_batches_of_different_buckets_are_mixed() -> None:
    data = dataset([(1, [(1, [0] * 40 + [1] * 40)])])
    plan = Plan(data, 0)
    first_half = Counter(data.items[plan.batch(i).entries[0].item].target for i in range(40))
    assert min(first_half.values()) > 10


def with_regularisation(own: list[int], regularisation: list[int], repeats: int = 1) -> Dataset:
    base = dataset([(3, [(repeats, own), (1, regularisation)])])
    first, second = base.sources
    second = replace(second, is_reg=True)
    items = tuple(replace(item, source=second) if item.source is base.sources[1] else item for item in base.items)
    return Dataset(items, base.groups, (first, second))


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
    st.lists(st.integers(0, 2), min_size=1, max_size=12),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_regularisation_balances_the_others_and_all_train(own: list[int], others: list[int], repeats: int) -> None:
    data = with_regularisation(own, others, repeats)
    plan = Plan(data, 5)
    epochs = 40
    seen: Counter[int] = Counter()
    for index in range(epochs * plan.batches_per_epoch):
        seen.update(entry.item for entry in plan.batch(index).entries)
    for index, item in enumerate(data.items):
        if not item.source.is_reg:
            assert seen[index] == epochs * repeats
    balanced = plan.samples_per_epoch - len(own) * repeats
    buckets = len(set(others))
    # As many as the others, or one per bucket where that is more.
    assert len(own) * repeats <= balanced <= max(len(own) * repeats + buckets, buckets)
    times = plan.times_per_epoch()
    assert abs(sum(times) - plan.samples_per_epoch) < 1e-9
    assert all(abs(times[i] * epochs - seen[i]) < 1 for i in range(len(data.items)))
    for size in set(others):
        counts = [seen[i] for i, item in enumerate(data.items) if item.source.is_reg and item.target == SIZES[size]]
        assert min(counts) >= 1 and max(counts) - min(counts) <= 1


def test_a_few_regularisation_images_are_repeated() -> None:
    data = with_regularisation([0] * 10, [0] * 4)
    plan = Plan(data, 0)
    entries = [
        e for i in range(plan.batches_per_epoch) for e in plan.batch(i).entries if data.items[e.item].source.is_reg
    ]
    # 10 of 4: two of them three times, two of them twice, each presentation with a number of its own.
    assert sorted(Counter(e.item for e in entries).values()) == [2, 2, 3, 3]
    assert len(set(entries)) == 10


def test_lines_for_the_console() -> None:
    first, second = with_regularisation([0] * 10, [0] * 4, repeats=2).sources
    data = with_regularisation([0] * 10, [0] * 4, repeats=2)
    named = (replace(first, where="a"), replace(second, where="b"))
    items = tuple(replace(item, source=named[item.source.is_reg]) for item in data.items)
    assert Plan(Dataset(items, data.groups, named), 0).lines() == [
        "a: 10 images, each 2 times an epoch",
        "b: 4 images, each 5 times an epoch",
        "an epoch: 40 samples in 14 batches (13 of 3, 1 of 1)",
    ]


def test_batch_sizes_of_an_epoch() -> None:
    plan = Plan(dataset([(4, [(1, [0] * 10 + [1] * 3)]), (1, [(2, [2])])]), 0)
    assert plan.batch_sizes() == Counter({4: 2, 2: 1, 3: 1, 1: 2})
    assert sum(plan.batch_sizes().values()) == plan.batches_per_epoch
