"""Batches made ahead are the same batches."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from tests.trainer.data.conftest import Folder, Scan
from trainer.batch import Batch, TextStates
from trainer.data.cache.ahead import in_order
from trainer.data.cache.memory import MemoryLatents, TextCache
from trainer.data.dataset import Dataset
from trainer.data.order.loader import Loader
from trainer.data.order.plan import Plan
from trainer.data.order.prefetch import Prefetch


def encode(pixels: Tensor) -> Tensor:
    return avg_pool2d(pixels, 8)


def encode_text(captions: Sequence[str]) -> TextStates:
    codes = torch.tensor([[float(len(c)), float(sum(map(ord, c)))] for c in captions])
    return TextStates({"hidden": codes[:, None, :], "pooled": codes})


@pytest.fixture
def data(folder: Folder, scanned: Scan) -> Dataset:
    sizes = {f"{n}.png": (64 + 8 * (n % 3), 64) for n in range(9)}
    folder("set", sizes, {f"{n}.txt": f"a, b, c, {n}" for n in range(9)})
    subset = {"image_dir": "set", "shuffle_caption": True, "flip_aug": True, "caption_dropout_rate": 0.3}
    return scanned({"resolution": 64, "batch_size": 2, "subsets": [subset]})


def same(one: Batch, other: Batch) -> bool:
    assert one.latents is not None and other.latents is not None
    return (
        (one.names, one.captions) == (other.names, other.captions)
        and torch.equal(one.latents, other.latents)
        and torch.equal(one.geometry.crop, other.geometry.crop)
        and (one.text is None) == (other.text is None)
        and (one.text is None or other.text is None or torch.equal(one.text["hidden"], other.text["hidden"]))
    )


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(data: Dataset, workers: int, stride: int) -> None:
    plan = Plan(data, 0)
    latents = MemoryLatents.encode(data, encode)
    threads: set[str] = set()

    def counted(captions: Sequence[str]) -> TextStates:
        threads.add(threading.current_thread().name)
        return encode_text(captions)

    loader = Loader(data, plan, 0, latents=latents, texts=TextCache(counted))
    expected = Loader(data, Plan(data, 0), 0, latents=latents, texts=TextCache(encode_text))
    with Prefetch(loader, workers=workers, stride=stride) as ahead:
        for index in [*range(0, 30 * stride, stride), 7, 7 + stride, 0]:  # and jumps, as after a resume
            assert same(ahead.batch(index), expected.batch(index))
    # The networks belong to the thread that trains.
    assert threads == {threading.current_thread().name}


def test_what_is_prepared_is_read_by_the_workers(data: Dataset) -> None:
    plan = Plan(data, 0)
    texts = TextCache(encode_text)
    loader = Loader(data, plan, 0, texts=texts)
    assert loader.without_text(0).text is None
    texts.prepare(caption for index in range(9) for caption in loader.batch(index).captions)
    assert loader.without_text(0).text is not None


def test_a_failure_comes_with_its_batch(data: Dataset) -> None:
    class Failing(Loader):
        def without_text(self, index: int) -> Batch:
            if index == 3:
                raise ValueError("batch 3")
            return super().without_text(index)

    with Prefetch(Failing(data, Plan(data, 0), 0), workers=2) as ahead:
        for index in range(3):
            ahead.batch(index)
        with pytest.raises(ValueError, match="batch 3"):
            ahead.batch(3)
        assert len(ahead.batch(4)) >= 1


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_in_order(workers: int) -> None:
    begun: list[int] = []

    def square(n: int) -> int:
        begun.append(n)
        return n * n

    results = in_order(square, range(100), workers=workers, window=5)
    assert begun == []  # nothing starts before it is asked for
    assert next(results) == 0
    assert len(begun) <= 6
    assert list(results) == [n * n for n in range(1, 100)]
    assert list(in_order(square, [], workers=workers, window=5)) == []
