"""Crops, mirrors, faces, tints and masks: what a presentation shows, and that the cache shows the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from tests.trainer.data.conftest import Folder, Scan, picture
from trainer import randomness
from trainer.config.schema.data import SubsetOptions
from trainer.data.cache.memory import MemoryLatents
from trainer.data.dataset import Dataset, ImageItem, SubsetSource
from trainer.data.order.loader import Loader
from trainer.data.order.plan import Plan
from trainer.data.pictures import buckets, views
from trainer.data.pictures.render import per_cell, render, tinted
from trainer.errors import UserError


def item(original: tuple[int, int], target: tuple[int, int], path: str = "a.png", **options: Any) -> ImageItem:
    fit = buckets.fit(original, target)
    source = SubsetSource("", 0, Path(), SubsetOptions(**options))
    return ImageItem(path, ("",), original, fit.resized, fit.corner, target, source)


def streams(seed: int) -> views.Streams:
    return lambda purpose: randomness.python_random(seed, purpose)


def encode(pixels: Tensor) -> Tensor:
    return avg_pool2d(pixels, 8)


SIDE = st.integers(20, 900)


@given(SIDE, SIDE, st.sampled_from([(64, 64), (128, 64), (64, 192)]), st.integers(0, 2**40))
def test_random_crops_stay_within(width: int, height: int, target: tuple[int, int], seed: int) -> None:
    one = item((width, height), target, random_crop=True)
    view = views.choose(one, streams(seed))
    assert view.resized == one.resized
    for axis in (0, 1):
        assert 0 <= view.corner[axis] <= view.resized[axis] - target[axis]


def test_random_crops_reach_every_place_evenly() -> None:
    one = item((80, 64), (64, 64), random_crop=True)
    places = Counter(views.choose(one, streams(seed)).corner for seed in range(3400))
    assert places.keys() == {(left, 0) for left in range(17)}
    assert all(abs(count - 200) < 70 for count in places.values())


@given(SIDE, SIDE, SIDE, SIDE, st.integers(1, 400), st.floats(0.5, 3), st.floats(0, 3), st.integers(0, 2**40))
def test_face_crops_stay_within_and_keep_the_shape(
    width: int, height: int, x: int, y: int, size: int, low: float, more: float, seed: int
) -> None:
    target = (64, 96)
    one = item((width, height), target)
    resized, corner = views.around_face(one, views.Face(x, y, size), (low, low + more), Random(seed))
    for axis in (0, 1):
        assert 0 <= corner[axis] <= resized[axis] - target[axis]
    # Never enlarged beyond what filling the bucket needs.
    cover = buckets.cover((width, height), target)
    assert resized[0] <= max(width, cover[0]) + 1 and resized[1] <= max(height, cover[1]) + 1


def test_face_crop_by_hand() -> None:
    # A face of 100 pixels in 1000 x 800, shown at twice its size: 200 pixels fill the 64: scale 0.32, image 320 x 256.
    one = item((1000, 800), (64, 64), "me_500_400_90_100.png", face_crop_aug_range=(2.0, 2.0))
    view = views.choose(one, streams(0))
    assert view.resized == (320, 256)
    assert view.corner == (160 - 32, 128 - 32)
    without = item((1000, 800), (64, 64), "me.png", face_crop_aug_range=(2.0, 2.0))
    assert views.choose(without, streams(0)) == views.plain(without)


def test_half_of_the_views_are_mirrored() -> None:
    one = item((64, 64), (64, 64), flip_aug=True)
    mirrored = sum(views.choose(one, streams(seed)).mirrored for seed in range(2000))
    assert abs(mirrored / 2000 - 0.5) < 0.05
    assert not any(views.choose(item((64, 64), (64, 64)), streams(seed)).mirrored for seed in range(50))


def test_tints_are_weak_and_keep_greys_grey() -> None:
    one = item((64, 64), (64, 64), color_aug=True)
    chosen = [views.choose(one, streams(seed)).tint for seed in range(600)]
    tints = [tint for tint in chosen if tint is not None]
    assert abs(len(tints) / 600 - 1 / 3) < 0.08
    assert all(abs(t.hue) <= 8 / 180 and 0.95 <= t.gamma <= 1.05 for t in tints)
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert (tinted(grey, views.Tint(hue=0.04)) == grey).all()
    pixels = np.asarray(picture(32, 32))
    assert (tinted(pixels, views.Tint()) == pixels).all()
    for tint in (views.Tint(hue=0.04), views.Tint(gamma=1.05)):
        assert 0 < np.abs(tinted(pixels, tint).astype(int) - pixels).mean() < 40
    # A third of a turn makes red green.
    assert np.abs(tinted(np.full((1, 1, 3), (255, 0, 0), np.uint8), views.Tint(hue=1 / 3)) - (0, 255, 0)).max() <= 4


def test_cells_average_their_pixels() -> None:
    mask = np.zeros((16, 24), np.uint8)
    mask[:8, :8] = 255
    mask[8:12, 8:16] = 200
    assert per_cell(mask, 8).tolist() == [[255, 0, 0], [0, 100, 0]]


@pytest.fixture
def masked(folder: Folder, scanned: Scan) -> Dataset:
    path = folder("set", {"plain.png": (64, 64)})
    rgba = picture(64, 64).convert("RGBA")
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:32, :16] = 255
    rgba.putalpha(Image.fromarray(alpha))
    rgba.save(path / "clear.png")
    subset = {"image_dir": "set", "class_tokens": "x", "alpha_mask": True, "flip_aug": True, "mask_outside": 0.2}
    return scanned({"resolution": 64, "batch_size": 2, "subsets": [subset]})


def test_alpha_masks_cached_and_live(masked: Dataset) -> None:
    plan = Plan(masked, 0)
    live = Loader(masked, plan, 0)
    cached = Loader(masked, plan, 0, latents=MemoryLatents.encode(masked, encode))
    expected = torch.full((8, 8), 0.2)
    expected[:4, :2] = 1
    seen = set()
    for index in range(12):
        a, b = live.batch(index), cached.batch(index)
        assert a.mask is not None and b.mask is not None and a.pixels is not None and b.latents is not None
        assert torch.equal(a.mask, b.mask) and a.mask.shape == (2, 1, 8, 8)
        assert torch.equal(encode(a.pixels), b.latents)
        for name, mask in zip(a.names, a.mask, strict=True):
            if name.endswith("plain.png"):
                assert (mask == 1).all()
            else:
                mirrored = torch.allclose(mask[0], expected.flip(-1))
                assert mirrored or torch.allclose(mask[0], expected)
                seen.add(mirrored)
    assert seen == {True, False}


def test_mirrored_views_are_mirror_images(masked: Dataset) -> None:
    one = masked.items[0]
    straight, mirrored = (render(one, views.plain(one, mirrored=m), masked.rendering) for m in (False, True))
    assert np.array_equal(straight.pixels[:, ::-1], mirrored.pixels)
    assert straight.mask is not None and np.array_equal(straight.mask[:, ::-1], mirrored.mask)


def test_without_masks_there_is_none(folder: Folder, scanned: Scan) -> None:
    folder("set", {"a.png": (64, 64)})
    data = scanned({"resolution": 64, "subsets": [{"image_dir": "set", "class_tokens": "x", "alpha_mask": True}]})
    assert Loader(data, Plan(data, 0), 0).batch(0).mask is None


def test_mask_folder(folder: Folder, scanned: Scan, tmp_path: Path) -> None:
    folder("set", {"a.png": (128, 64)})
    (tmp_path / "masks").mkdir()
    mask = np.zeros((64, 128, 3), np.uint8)
    mask[:, 64:, 0] = 255  # the red channel counts
    Image.fromarray(mask).save(tmp_path / "masks/a.webp", lossless=True)
    picture(8, 8).save(tmp_path / "masks/stray.png")
    table = {"resolution": [128, 64]}
    table |= {"subsets": [{"image_dir": "set", "class_tokens": "x", "conditioning_data_dir": "masks"}]}
    data = scanned(table)
    found = Loader(data, Plan(data, 0), 0).batch(0).mask
    assert found is not None
    assert torch.equal(found[0, 0], torch.cat([torch.zeros(8, 8), torch.ones(8, 8)], 1))
    assert any("1 masks belong to no image: stray.png" in note for note in data.notes)
    picture(64, 64).save(tmp_path / "set/b.png")
    with pytest.raises(UserError, match=r"conditioning_data_dir: 1 of 2 images have no mask .*: b\.png"):
        scanned(table)
    picture(60, 60).save(tmp_path / "masks/b.png")
    data = scanned(table)
    with pytest.raises(UserError, match=r"masks/b\.png: is \(60, 60\), but its image .*set/b\.png is \(64, 64\)"):
        MemoryLatents.encode(data, encode)


def test_geometry_of_a_mirror_image(folder: Folder, scanned: Scan) -> None:
    # kohya's numbers: the image at its own aspect ratio in the target; mirrored, the left edge is target - right.
    folder("set", {"a.png": (300, 128)})
    subset = {"image_dir": "set", "class_tokens": "x", "flip_aug": True}
    data = scanned({"resolution": [256, 64], "subsets": [subset]})
    loader = Loader(data, Plan(data, 0), 0)
    # 64 high -> 150 wide in 256: left (256 - 150) // 2 = 53, right 203; mirrored 256 - 203 = 53.
    assert {tuple(loader.batch(i).geometry.crop[0].tolist()) for i in range(10)} == {(0, 53)}
    odd = replace(data.items[0], original=(301, 128))
    assert odd.crop_ltrb[:3] == (52.0, 0.0, 202.5)


@pytest.mark.parametrize("option", [{"color_aug": True}, {"random_crop": True}, {"face_crop_aug_range": (1.0, 2.0)}])
def test_changing_views_exclude_cached_latents(folder: Folder, scanned: Scan, option: dict[str, Any]) -> None:
    folder("set", {"a.png": (100, 64)})
    table = {"resolution": 64, "subsets": [{"image_dir": "set", "class_tokens": "x", **option}]}
    with pytest.raises(UserError, match=rf"subsets\[0\]\.{next(iter(option))}: excludes cached latents"):
        scanned(table)
    data = scanned(table, data={"cache_latents": False})
    assert len(Loader(data, Plan(data, 0), 0).batch(0)) == 1


def test_no_upscale_keeps_small_images(folder: Folder, scanned: Scan) -> None:
    folder("set", {"small.png": (150, 100), "large.png": (900, 600)})
    table = {"resolution": 256, "enable_bucket": True, "bucket_no_upscale": True}
    table |= {"subsets": [{"image_dir": "set", "class_tokens": "x"}]}
    large, small = scanned(table).items
    assert (small.resized, small.target) == ((150, 100), (128, 64))
    # 900 x 600 at 65,536 pixels is 313.5 x 209: 256 wide and 171 -> 128 high (2.0), or 192 high and 288 -> 256 (1.33).
    assert large.target == (256, 192)
    with pytest.raises(UserError, match=r"small\.png: is 150 x 100; with bucket_no_upscale no side"):
        scanned(table | {"bucket_reso_steps": 128})


def test_background(folder: Folder, scanned: Scan, tmp_path: Path) -> None:
    folder("set", {})
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "set/a.png")
    table = {"resolution": 64, "subsets": [{"image_dir": "set", "class_tokens": "x"}]}
    for name, value in (("white", 1.0), ("#000000", -1.0)):
        data = scanned(table, data={"background": name})
        pixels = Loader(data, Plan(data, 0), 0).batch(0).pixels
        assert pixels is not None and (pixels == value).all()
    with pytest.raises(UserError, match=r"data\.background: 'nocolour' is no colour"):
        scanned(table, data={"background": "nocolour"})


def test_tensor_range_and_layout() -> None:
    from trainer.data.pictures.render import to_tensor

    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 1] = (255, 0, 51)
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, 2, 3) and tensor.dtype == torch.float32
    assert tensor[:, 0, 1].tolist() == pytest.approx([1.0, -1.0, 0.4 - 1.0])
    assert tensor[:, 1, 2].tolist() == [-1.0, -1.0, -1.0]
