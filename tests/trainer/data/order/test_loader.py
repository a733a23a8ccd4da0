"""Batches: live and cached must agree, and nothing but the index decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from tests.trainer.data.conftest import Folder, Scan, picture
from trainer.batch import TextStates
from trainer.data.cache.memory import MemoryLatents, TextCache
from trainer.data.dataset import Dataset
from trainer.data.order.loader import Loader
from trainer.data.order.plan import Plan
from trainer.errors import UserError


def encode(pixels: Tensor) -> Tensor:
    return avg_pool2d(pixels, 8)


def encode_text(captions: Sequence[str]) -> TextStates:
    codes = torch.tensor([[float(len(c)), float(sum(map(ord, c)))] for c in captions])
    return TextStates({"hidden": codes[:, None, :], "pooled": codes})


@pytest.fixture
def data(folder: Folder, scanned: Scan) -> Dataset:
    sizes = {"a.png": (200, 100), "b.png": (64, 64), "c.png": (90, 128), "d.png": (64, 72)}
    folder("set", sizes, {f"{name}.txt": f"picture {name}" for name in "abcd"})
    subset = {"image_dir": "set", "num_repeats": 2, "caption_dropout_rate": 0.4}
    return scanned(
        {"resolution": 64, "enable_bucket": True, "bucket_reso_steps": 16, "min_bucket_reso": 32, "batch_size": 2}
        | {"subsets": [subset]}
    )


def test_live_batches(data: Dataset) -> None:
    plan = Plan(data, 3)
    loader = Loader(data, plan, 3)
    for index in range(2 * plan.batches_per_epoch):
        batch, planned = loader.batch(index), plan.batch(index)
        assert batch.pixels is not None and batch.latents is None and batch.text is None
        items = [data.items[entry.item] for entry in planned.entries]
        width, height = items[0].target
        assert batch.pixels.shape == (len(items), 3, height, width)
        assert batch.names == tuple(item.path for item in items)
        assert batch.weights.tolist() == [1.0] * len(items)
        assert batch.geometry.original.tolist() == [[item.original[1], item.original[0]] for item in items]
        assert batch.geometry.target.tolist() == [[height, width]] * len(items)
        assert all(c in ("", item.captions[0]) for c, item in zip(batch.captions, items, strict=True))


def test_cached_equals_live_and_encodes_each_once(data: Dataset) -> None:
    plan = Plan(data, 3)
    calls: list[int] = []
    progress: list[tuple[int, int]] = []
    texts_encoded: list[str] = []

    def counted(pixels: Tensor) -> Tensor:
        calls.append(len(pixels))
        return encode(pixels)

    def counted_text(captions: Sequence[str]) -> TextStates:
        texts_encoded.extend(captions)
        return encode_text(captions)

    latents = MemoryLatents.encode(data, counted, batch_size=3, on_progress=lambda *p: progress.append(p))
    live = Loader(data, plan, 3)
    texts = TextCache(counted_text, batch_size=3)
    texts.prepare(live.possible_captions())
    prepared = list(texts_encoded)
    assert sorted(prepared) == ["", *(f"picture {name}" for name in "abcd")]
    cached = Loader(data, plan, 3, latents=latents, texts=texts)
    for index in range(2 * plan.batches_per_epoch):
        a, b = live.batch(index), cached.batch(index)
        assert a.pixels is not None and b.latents is not None and b.text is not None
        assert b.pixels is None
        assert torch.equal(encode(a.pixels), b.latents)
        assert (a.names, a.captions) == (b.names, b.captions)
        assert torch.equal(b.text["hidden"], encode_text(a.captions)["hidden"])
        assert torch.equal(b.text["pooled"], encode_text(a.captions)["hidden"][:, 0])
    assert sum(calls) == len(data.items) and progress[-1] == (4, 4)
    assert texts_encoded == prepared  # everything that can occur was prepared


def test_batches_depend_on_nothing_but_the_index(data: Dataset) -> None:
    forward, backward = Loader(data, Plan(data, 3), 3), Loader(data, Plan(data, 3), 3)
    captions = {i: forward.batch(i).captions for i in range(20)}
    assert {i: backward.batch(i).captions for i in reversed(range(20))} == captions
    other = Loader(data, Plan(data, 3), 4)
    assert [other.batch(i).captions for i in range(20)] != list(captions.values())
    assert "" in {c for batch in captions.values() for c in batch}


def test_nan_latents_name_the_file(data: Dataset) -> None:
    def broken(pixels: Tensor) -> Tensor:
        latents = encode(pixels)
        latents[-1, 0, 0, 0] = float("nan")
        return latents

    with pytest.raises(UserError, match=r"[abcd]\.png: the VAE made NaN"):
        MemoryLatents.encode(data, broken)


def test_an_image_that_changed_since_the_scan_is_named(data: Dataset) -> None:
    path = Path(data.items[1].path)
    picture(96, 64).save(path)
    with pytest.raises(UserError, match=r"b\.png: was \(64, 64\) when it was scanned"):
        MemoryLatents.encode(data, encode)


def test_pixels_are_the_pictures(folder: Folder, scanned: Scan) -> None:
    folder("set", {"a.png": (64, 64)})
    found = scanned({"resolution": 64, "subsets": [{"image_dir": "set", "class_tokens": "x"}]})
    pixels = Loader(found, Plan(found, 0), 0).batch(0).pixels
    assert pixels is not None
    stored = np.asarray(Image.open(found.items[0].path)).transpose(2, 0, 1)
    assert np.array_equal(((pixels[0].numpy() + 1) * 127.5).round(), stored)


def test_captions_that_never_come_again_do_not_pile_up() -> None:
    asked: list[str] = []

    def counted(captions: Sequence[str]) -> TextStates:
        asked.extend(captions)
        return encode_text(captions)

    texts = TextCache(counted, recent=3)
    texts.prepare(["kept"])
    for n in range(10):
        states = texts.states([f"passing {n}", "kept", f"passing {n}"])
        assert torch.equal(states["hidden"], encode_text([f"passing {n}", "kept", f"passing {n}"])["hidden"])
    assert asked == ["kept", *(f"passing {n}" for n in range(10))]
    texts.states(["passing 9", "passing 8", "passing 7"])
    assert len(asked) == 11
    texts.states(["passing 0"])
    assert asked[-1] == "passing 0"
