"""What an inpainting model is not shown: drawn or given, live or cached, the same in both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import avg_pool2d

from tests.trainer.data.conftest import Folder, Scan
from trainer.data.cache.disk_latents import DiskLatents, LatentRecipe
from trainer.data.cache.encode import Variant, variants
from trainer.data.cache.memory import MemoryLatents
from trainer.data.dataset import Dataset
from trainer.data.order.loader import Loader
from trainer.data.order.plan import Plan
from trainer.data.pictures import hiding, views
from trainer.data.pictures.render import render, to_tensor

AREAS = 3


def encode(pixels: Tensor) -> Tensor:
    return avg_pool2d(pixels, 8)


def made(folder: Folder, scanned: Scan, **options: Any) -> Dataset:
    """Two pictures, the first one's left half white in its mask."""
    images = folder("set", {"a.png": (64, 64), "b.png": (64, 64)}, {"a.txt": "a", "b.txt": "b"})
    masks = images.parent / "masks"
    masks.mkdir()
    for name in ("a", "b"):
        mask = Image.new("L", (64, 64))
        ImageDraw.Draw(mask).rectangle((0, 0, 31, 63), fill=255)
        mask.save(masks / f"{name}.png")
    subset = {"image_dir": "set", **options}
    return replace(scanned({"resolution": 64, "batch_size": 2, "subsets": [subset]}), hiding=AREAS)


def test_areas_are_whole_in_a_quarter_and_of_many_sizes_and_shapes() -> None:
    areas = [hiding.drawn((48, 32), Random(seed)) for seed in range(600)]
    assert {area.shape for area in areas} == {(32, 48)} and {*np.unique(np.stack(areas))} == {0, 255}
    shares = np.array([area.mean() / 255 for area in areas])
    assert (shares == 1).mean() == pytest.approx(0.25, abs=0.06)
    partly = shares[shares < 1]
    assert (partly > 0).all() and partly.min() < 0.1 and partly.max() > 0.6
    assert np.array_equal(areas[7], hiding.drawn((48, 32), Random(7)))


@pytest.mark.parametrize(
    ("options", "own", "count"),
    [
        ({}, False, AREAS),
        ({"conditioning_data_dir": "masks"}, True, 1),
        ({"conditioning_data_dir": "masks", "inpaint_mask": "random"}, False, AREAS),
        ({"alpha_mask": True}, True, 1),
    ],
)
def test_which_areas_an_image_has(
    folder: Folder, scanned: Scan, options: dict[str, Any], own: bool, count: int
) -> None:
    data = made(folder, scanned, **options)
    assert hiding.takes_own(data.items[0]) is own
    assert [v.hidden for v in variants(data) if v.item == 0] == [hiding.SEEN, *range(count)]
    assert len(variants(replace(data, hiding=0))) == 2


def test_its_own_mask_hides_what_is_white(folder: Folder, scanned: Scan) -> None:
    data = made(folder, scanned, conditioning_data_dir="masks")
    whole = render(data.items[0], views.plain(data.items[0]), data.rendering)
    partly = hiding.partly(whole, data.items[0], 8, Random(0))
    assert partly.mask is not None and partly.mask[:, :4].min() == 255 and partly.mask[:, 4:].max() == 0
    shown = partly.tensor()
    assert float(shown[:, :, :32].abs().max()) == 0
    assert torch.equal(shown[:, :, 32:], to_tensor(whole.pixels)[:, :, 32:])


def test_what_is_cached_is_the_latent_of_what_stays_visible(folder: Folder, scanned: Scan, tmp_path: Path) -> None:
    data = made(folder, scanned)
    memory = MemoryLatents.encode(data, encode)
    disk = DiskLatents(data, tmp_path / "cache", LatentRecipe("vae"))
    disk.fill(encode)
    disk.refresh()
    seen = set()
    for variant in (v for v in variants(data) if v.hidden != hiding.SEEN):
        item = data.items[variant.item]
        whole = render(item, views.plain(item), data.rendering)
        area = hiding.drawn((64, 64), hiding.numbered(whole, variant.hidden))
        expected = encode((to_tensor(whole.pixels) * torch.from_numpy(area == 0))[None])[0]
        for source in (memory, disk):
            stored = source.read(variant)
            assert stored.mask is not None
            assert torch.equal(stored.mean, expected)
            assert np.array_equal(stored.mask.numpy(), area[::8, ::8])
        seen.add(area.tobytes())
    assert len(seen) > AREAS  # areas differ between numbers and images


def test_keys_know_the_mask_and_others_stay_as_they_were(folder: Folder, scanned: Scan, tmp_path: Path) -> None:
    data = made(folder, scanned, conditioning_data_dir="masks")
    recipe = LatentRecipe("vae")
    keys = DiskLatents(data, tmp_path / "cache", recipe)._keys
    plain = DiskLatents(replace(data, hiding=0), tmp_path / "cache", recipe)._keys
    assert {v: k for v, k in keys.items() if v.hidden == hiding.SEEN} == plain
    assert len(set(keys.values())) == len(keys)
    Image.new("L", (64, 64), 255).save(tmp_path / "masks" / "a.png")
    changed = DiskLatents(data, tmp_path / "cache", recipe)._keys
    assert changed[Variant(0, False, 0)] != keys[Variant(0, False, 0)]
    assert changed[Variant(1, False, 0)] == keys[Variant(1, False, 0)]


@pytest.mark.parametrize("cached", [True, False])
def test_batches_show_what_is_not_hidden(folder: Folder, scanned: Scan, cached: bool) -> None:
    data = made(folder, scanned)
    latents = MemoryLatents.encode(data, encode) if cached else None
    loader = Loader(data, Plan(data, 3), 3, latents=latents)
    areas = set()
    for index in range(12):
        shown, again = loader.batch(index).shown, loader.batch(index).shown
        assert shown is not None and again is not None and torch.equal(shown.hidden, again.hidden)
        assert shown.hidden.shape == (2, 1, 8, 8) and set(shown.hidden.unique().tolist()) <= {0.0, 1.0}
        areas |= {row.numpy().tobytes() for row in shown.hidden}
        if cached:
            assert shown.pixels is None and shown.latents is not None and shown.latents.shape == (2, 3, 8, 8)
        else:
            assert shown.latents is None and shown.pixels is not None
            hidden = shown.pixels[..., ::8, ::8].abs().amax(1, keepdim=True) == 0
            assert torch.equal(hidden.float(), shown.hidden)
    assert len(areas) > (4 if cached else 10)
    assert Loader(replace(data, hiding=0), Plan(data, 3), 3, latents=latents).batch(0).shown is None
