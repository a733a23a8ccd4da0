"""The disk cache: never stale, never half, the same bytes however often it was interrupted."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from tests.trainer.data.conftest import Folder, Scan, picture
from trainer.batch import TextStates
from trainer.data.cache import content, shards
from trainer.data.cache.disk_latents import DiskLatents, LatentRecipe
from trainer.data.cache.disk_texts import DiskTexts
from trainer.data.cache.encode import Stored, Variant, draw, variants
from trainer.data.cache.kohya_npz import KohyaLatents
from trainer.data.cache.memory import MemoryLatents, TextCache
from trainer.data.cache.shards import ShardStore
from trainer.data.dataset import Dataset
from trainer.data.order.loader import Loader
from trainer.data.order.plan import Plan
from trainer.data.pictures import views
from trainer.data.pictures.render import render
from trainer.errors import RunError, UserError

RECIPE = LatentRecipe("vae")


def encode(pixels: Tensor) -> Tensor:
    return avg_pool2d(pixels, 8)


def posterior(pixels: Tensor) -> tuple[Tensor, Tensor]:
    mean = avg_pool2d(pixels, 8)
    return mean, mean.abs() / 10 + 0.01


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a cache folder that is not a lock or a memory of time stamps."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in (".lock", "hashes.json")}


@pytest.fixture
def data(folder: Folder, scanned: Scan) -> Dataset:
    sizes = {f"{n:03d}.png": ((96, 64) if n % 3 else (64, 64)) for n in range(150)}
    folder("set", sizes)
    subset = {"image_dir": "set", "class_tokens": "x", "flip_aug": True}
    table = {"resolution": 64, "enable_bucket": True, "bucket_reso_steps": 16, "min_bucket_reso": 32, "batch_size": 4}
    return scanned(table | {"subsets": [subset]})


def filled(
    data: Dataset, folder: Path, encoder: Any = encode, recipe: LatentRecipe = RECIPE, **options: Any
) -> DiskLatents:
    latents = DiskLatents(data, folder, recipe, workers=1)
    latents.fill(encoder, **options)
    return latents


def counting(calls: list[int]) -> Any:
    def counted(pixels: Tensor) -> Tensor:
        calls.append(len(pixels))
        return encode(pixels)

    return counted


def test_disk_equals_memory_and_a_second_start_encodes_nothing(data: Dataset, tmp_path: Path) -> None:
    calls: list[int] = []
    progress: list[tuple[int, int]] = []
    disk = filled(data, tmp_path / "cache", counting(calls), on_progress=lambda *p: progress.append(p))
    assert sum(calls) == 300 and progress[-1] == (300, 300) and disk.missing == []
    memory = MemoryLatents.encode(data, encode)
    for variant in variants(data):
        assert torch.equal(disk.read(variant).mean, memory.read(variant).mean)
    again = filled(data, tmp_path / "cache", counting(calls))
    assert sum(calls) == 300
    plan = Plan(data, 0)
    a, b = Loader(data, plan, 0, latents=again), Loader(data, plan, 0, latents=memory)
    for index in range(20):
        x, y = a.batch(index).latents, b.batch(index).latents
        assert x is not None and y is not None and torch.equal(x, y)


def test_shards_are_plain_safetensors_of_a_bounded_size(data: Dataset, tmp_path: Path) -> None:
    filled(data, tmp_path / "cache")
    counts = []
    for path in (tmp_path / "cache").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            counts.append(len(list(file.keys())))
    assert sum(counts) == 300 and len(counts) >= 4


def test_an_edited_image_of_the_same_size_and_time_is_encoded_anew(data: Dataset, tmp_path: Path) -> None:
    calls: list[int] = []
    filled(data, tmp_path / "cache", counting(calls))
    path = Path(data.items[7].path)
    before = path.stat()
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    if path.stat().st_size == before.st_size:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    fresh = filled(data, tmp_path / "cache", counting(calls))
    assert sum(calls) == 302  # and its mirror image
    shown = render(data.items[7], views.plain(data.items[7]), data.rendering)
    assert torch.equal(fresh.read(Variant(7)).mean, encode(shown.tensor()[None])[0])


def test_known_hashes_spare_the_reading_of_settled_files(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    old = time.time() - 100
    os.utime(path, (old, old))
    memory = tmp_path / "hashes.json"
    first = content.FileHashes(memory).of([str(path)])[str(path)]
    path.write_bytes(b"two")  # a change that keeps size and time goes unseen, and proves that nothing was read
    os.utime(path, (old, old))
    assert content.FileHashes(memory).of([str(path)])[str(path)] == first
    path.write_bytes(b"tri")
    assert content.FileHashes(memory).of([str(path)])[str(path)] != first
    memory.write_text("{ not json")
    assert content.FileHashes(memory).of([str(path)])[str(path)] != first


def test_everything_that_latents_depend_on_is_in_their_key(folder: Folder, scanned: Scan, tmp_path: Path) -> None:
    folder("set", {"a.png": (96, 64)})
    picture(96, 64).save(tmp_path / "set/a.png")
    shutil.copytree(tmp_path / "set", tmp_path / "masks")

    def key(recipe: LatentRecipe = RECIPE, table: Any = None, data: Any = None, **subset: Any) -> str:
        tables = {"resolution": 64} | (table or {})
        tables["subsets"] = [{"image_dir": "set", "class_tokens": "x", **subset}]
        latents = DiskLatents(scanned(tables, data=data), tmp_path / "cache", recipe)
        return latents._keys[Variant(0)]

    keys = [
        key(),
        key(LatentRecipe("other")),
        key(LatentRecipe("vae", "fresh")),
        key(LatentRecipe("vae", "mean", torch.float16)),
        key(LatentRecipe("vae", precision=torch.bfloat16)),
        key(table={"resolution": 32}),
        key(table={"resolution": [96, 64]}),
        key(resize_interpolation="bicubic"),
        key(data={"background": "black"}),
        key(alpha_mask=True),
        key(conditioning_data_dir="masks"),
    ]
    picture(96, 64, seed=9).save(tmp_path / "set/a.png")
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == keys[-1]


def test_processes_share_the_work(data: Dataset, tmp_path: Path) -> None:
    alone = filled(data, tmp_path / "alone")
    parts = [DiskLatents(data, tmp_path / "shared", RECIPE, workers=1) for _ in range(3)]
    calls: list[int] = []
    shares = []
    for rank, part in enumerate(parts):
        part.fill(counting(calls), rank=rank, world=3)
        shares.append(sum(calls) - sum(shares))
    assert sum(shares) == 300 and min(shares) > 0
    parts[0].refresh()
    assert parts[0].missing == []
    assert files(tmp_path / "shared") == files(tmp_path / "alone")
    assert alone.missing == []


def test_two_runs_filling_at_once_do_not_clash(data: Dataset, tmp_path: Path) -> None:
    first = DiskLatents(data, tmp_path / "cache", RECIPE, workers=1)
    second = DiskLatents(data, tmp_path / "cache", RECIPE, workers=1)
    second.fill(encode)
    first.fill(encode)  # it saw an empty folder when it began
    filled(data, tmp_path / "alone")
    assert files(tmp_path / "cache") == files(tmp_path / "alone")


def test_new_images_are_added_and_old_ones_kept(data: Dataset, scanned: Scan, tmp_path: Path) -> None:
    filled(data, tmp_path / "cache")
    before = files(tmp_path / "cache")
    picture(64, 64, seed=999).save(tmp_path / "set/new.png")
    more = scanned({"resolution": 64, "subsets": [{"image_dir": "set", "class_tokens": "x"}]})
    calls: list[int] = []
    filled(more, tmp_path / "cache", counting(calls))
    assert before.items() <= files(tmp_path / "cache").items()


def _fill_slowly(data: Dataset, folder: Path) -> None:
    torch.set_num_threads(1)

    def slow(pixels: Tensor) -> Tensor:
        time.sleep(0.002)
        return encode(pixels)

    filled(data, folder, slow, batch_size=2)


def test_killed_at_random_moments_it_ends_with_the_same_bytes(data: Dataset, tmp_path: Path) -> None:
    filled(data, tmp_path / "whole", batch_size=2)
    chance = random.Random(0)
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    folder, left, lives = tmp_path / "killed", [], 0
    for _ in range(50):
        process = context.Process(target=_fill_slowly, args=(data, folder))
        process.start()
        wanted, deadline = len(list(folder.glob("*.safetensors"))) + chance.randint(0, 1), time.monotonic() + 20
        while len(list(folder.glob("*.safetensors"))) < wanted and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.04))
        process.kill()
        process.join()
        latents = DiskLatents(data, folder, RECIPE)
        assert latents.store.damaged == []
        left.append(len(latents.missing))
        if not latents.missing:  # the next life begins anew
            assert left == sorted(left, reverse=True) and len(set(left)) > 2  # each got further, at different moments
            assert files(folder) == files(tmp_path / "whole")
            shutil.rmtree(folder)
            left, lives = [], lives + 1
    filled(data, folder, batch_size=2)
    assert files(folder) == files(tmp_path / "whole")
    assert lives > 0


def test_damaged_shards_are_named_removed_and_made_again(data: Dataset, tmp_path: Path) -> None:
    filled(data, tmp_path / "cache")
    whole = files(tmp_path / "cache")
    paths = sorted((tmp_path / "cache").glob("*.safetensors"))
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    paths[1].write_bytes(b"")
    paths[2].write_bytes(b"\xff" * 100)
    latents = DiskLatents(data, tmp_path / "cache", RECIPE)
    assert len(latents.store.damaged) == 3 and paths[0].name in latents.store.damaged[0]
    latents.fill(encode)
    assert files(tmp_path / "cache") == whole


def test_a_flipped_bit_is_noticed(data: Dataset, tmp_path: Path) -> None:
    filled(data, tmp_path / "cache")
    for path in (tmp_path / "cache").glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-3] ^= 4
        path.write_bytes(content)
    latents = DiskLatents(data, tmp_path / "cache", RECIPE)
    noticed = 0
    for variant in variants(data):
        try:
            latents.read(variant)
        except RunError as error:
            noticed += "was damaged on the disk, and has been removed" in str(error)
            assert "cache" in str(error)
    assert noticed >= 4
    assert DiskLatents(data, tmp_path / "cache", RECIPE).missing


def test_a_full_disk_leaves_the_cache_valid(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = shards.save_file, []

    def full(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        written.append(path)
        real(tensors, path, metadata)
        if len(written) == 3:
            path.write_bytes(path.read_bytes()[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(RunError, match=r"the disk is full: [\d,]+ bytes to write, [\d,]+ free\. What is cached"):
        filled(data, tmp_path / "cache")
    monkeypatch.undo()
    left = DiskLatents(data, tmp_path / "cache", RECIPE)
    assert left.store.damaged == [] and 0 < len(left.missing) < 300
    left.fill(encode)
    filled(data, tmp_path / "alone")
    assert files(tmp_path / "cache") == files(tmp_path / "alone")


def test_too_little_space_is_said_before_the_work(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    calls: list[int] = []
    with pytest.raises(RunError, match=r"the cache needs about 0\.0 GB more"):
        filled(data, tmp_path / "cache", counting(calls))
    assert sum(calls) < 150 and files(tmp_path / "cache") == {}


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    from trainer.data.cache.folder import filling

    (tmp_path / ".partial-1").touch()
    with filling(tmp_path):
        assert not (tmp_path / ".partial-1").exists()
        (tmp_path / ".partial-2").touch()
        with filling(tmp_path):
            assert (tmp_path / ".partial-2").exists()
    with filling(tmp_path):
        assert not (tmp_path / ".partial-2").exists()


def test_posteriors(data: Dataset, tmp_path: Path) -> None:
    fresh = filled(data, tmp_path / "cache", posterior, LatentRecipe("vae", "fresh"))
    stored = fresh.read(Variant(0))
    assert stored.std is not None
    loader = Loader(data, Plan(data, 1), 1, latents=fresh)
    per_epoch = loader.plan.batches_per_epoch
    seen: dict[str, list[Tensor]] = {}
    for index in range(3 * per_epoch):
        batch = loader.batch(index)
        assert batch.latents is not None
        again = loader.batch(index).latents
        assert again is not None and torch.equal(batch.latents, again)
        for name, latents in zip(batch.names, batch.latents, strict=True):
            seen.setdefault(name, []).append(latents)
    # Another sample each epoch; all together they have the posterior's mean and deviation.
    assert all(not torch.equal(latents[0], latents[1]) for latents in seen.values())
    scores = []
    for index, item in enumerate(data.items):
        both = [fresh.read(Variant(index, mirrored)) for mirrored in (False, True)]
        for latents in seen[item.path]:
            nearest = min(both, key=lambda s, x=latents: float((s.mean - x).abs().mean()))
            assert nearest.std is not None
            scores.append((latents - nearest.mean) / nearest.std)
    values = torch.stack([s.mean() for s in scores]), torch.stack([s.std() for s in scores])
    assert abs(values[0].mean()) < 0.02 and abs(values[1].mean() - 1) < 0.02

    once = filled(data, tmp_path / "cache", posterior, LatentRecipe("vae", "once"))
    sample = once.read(Variant(0))
    assert sample.std is None and not torch.equal(sample.mean, stored.mean)
    elsewhere = filled(data, tmp_path / "other", posterior, LatentRecipe("vae", "once"))
    assert torch.equal(elsewhere.read(Variant(0)).mean, sample.mean)
    mean = filled(data, tmp_path / "cache", posterior, LatentRecipe("vae", "mean"))
    assert mean.read(Variant(0)).std is None and torch.equal(mean.read(Variant(0)).mean, stored.mean)
    half = filled(data, tmp_path / "cache", posterior, LatentRecipe("vae", "mean", torch.float16))
    assert half.read(Variant(0)).mean.dtype == torch.float32
    assert torch.equal(half.read(Variant(0)).mean, stored.mean.half().float())


def test_draw_without_deviation_is_the_mean() -> None:
    mean = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(Stored(mean), torch.Generator().manual_seed(1)), mean)


@pytest.fixture
def npz(folder: Folder, scanned: Scan, tmp_path: Path) -> Iterator[tuple[Dataset, Path, dict[str, Any]]]:
    folder("set", {"a.png": (96, 64), "b.png": (64, 64)})
    data = scanned({"resolution": 64, "subsets": [{"image_dir": "set", "class_tokens": "x", "flip_aug": True}]})
    latents = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)
    arrays = {
        "latents": latents[0],
        "latents_flipped": latents[1],
        "original_size": np.array([96, 64]),
        "crop_ltrb": np.array([0, 0, 64, 64]),
    }
    yield data, tmp_path / "set/a_0096x0064_sd.npz", arrays


def test_kohyas_latents_are_taken_over_where_they_fit(
    npz: tuple[Dataset, Path, dict[str, Any]], tmp_path: Path
) -> None:
    data, path, arrays = npz
    np.savez(path, **arrays)
    calls: list[int] = []
    latents = DiskLatents(data, tmp_path / "cache", RECIPE, kohya=KohyaLatents("_sd.npz", 0.5), workers=0)
    assert latents.taken_over == {Variant(0): str(path), Variant(0, True): str(path)}
    latents.fill(counting(calls))
    assert sum(calls) == 2  # b and its mirror image
    assert torch.equal(latents.read(Variant(0)).mean, torch.from_numpy(arrays["latents"]) * 0.5)
    assert torch.equal(latents.read(Variant(0, True)).mean, torch.from_numpy(arrays["latents_flipped"]) * 0.5)
    # Without the permission the same image gets its own latents.
    own = filled(data, tmp_path / "cache", counting(calls))
    assert sum(calls) == 4
    assert not torch.equal(own.read(Variant(0)).mean[:3], latents.read(Variant(0)).mean[:3])


@pytest.mark.parametrize(
    "change",
    [
        {"latents": np.zeros((4, 8, 12), np.float32)},  # another training size
        {"original_size": np.array([64, 96])},
        {"latents": None},
    ],
)
def test_kohyas_latents_that_do_not_fit_are_left(
    npz: tuple[Dataset, Path, dict[str, Any]], change: dict[str, Any]
) -> None:
    data, path, arrays = npz
    kohya = KohyaLatents("_sd.npz", 1.0)
    np.savez(path, **{k: v for k, v in (arrays | change).items() if v is not None})
    assert kohya.read(data.items[0], False, data.rendering) is None
    np.savez(path, **arrays)
    assert kohya.read(data.items[0], False, data.rendering) is not None
    os.utime(path, (1, 1))  # older than the image
    assert kohya.read(data.items[0], False, data.rendering) is None
    path.write_bytes(b"PK broken")
    assert kohya.read(data.items[0], False, data.rendering) is None


def encode_text(captions: Sequence[str]) -> TextStates:
    codes = torch.tensor([[float(len(c)), float(sum(map(ord, c)))] for c in captions])
    return TextStates({"hidden": codes[:, None, :].repeat(1, 3, 1), "pooled": codes})


def test_texts_on_disk(tmp_path: Path) -> None:
    captions = [f"caption {n} ü" for n in range(300)]
    asked: list[str] = []

    def counted(texts: Sequence[str]) -> TextStates:
        asked.extend(texts)
        return encode_text(texts)

    progress: list[tuple[int, int]] = []
    first = TextCache(counted, store=DiskTexts(tmp_path / "texts", "encoder"))
    first.prepare(captions, on_progress=lambda *p: progress.append(p))
    assert sorted(asked) == sorted(captions) and progress[-1] == (300, 300)
    second = TextCache(counted, store=DiskTexts(tmp_path / "texts", "encoder"))
    second.prepare(captions)
    states = second.states(captions[5:9])
    assert len(asked) == 300
    assert torch.equal(states["hidden"], encode_text(captions[5:9])["hidden"])
    assert torch.equal(states["pooled"], encode_text(captions[5:9])["hidden"][:, 0])
    other = TextCache(counted, store=DiskTexts(tmp_path / "texts", "another encoder"))
    other.prepare(captions[:3])
    assert len(asked) == 303
    assert not (DiskTexts(tmp_path / "texts", "encoder").store.damaged)


def test_stores_keep_dtypes_and_shapes(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    entry = {
        "a": torch.randn(3, 2, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0)),
        "b": torch.arange(5, dtype=torch.uint8),
        "c": torch.tensor(3.0),
        "d": torch.zeros(0, 4),
    }
    store.write({"key": entry})
    for found in (store.read("key"), ShardStore(tmp_path).read("key")):
        assert found.keys() == entry.keys()
        assert all(torch.equal(found[n], entry[n]) and found[n].dtype == entry[n].dtype for n in entry)
    with pytest.raises(KeyError):
        store.read("other")


def test_hash_of_weights() -> None:
    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Linear(3, 2)

    assert content.of_module(network(0)) == content.of_module(network(0))
    assert content.of_module(network(0)) != content.of_module(network(1))
    assert content.of_module(network(0)) != content.of_module(network(0).half())


def test_a_broken_image_is_named_and_the_shards_before_it_stay(data: Dataset, tmp_path: Path) -> None:
    path = Path(data.items[3].path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"003\.png: "):
        filled(data, tmp_path / "cache")
    left = len(DiskLatents(data, tmp_path / "cache", RECIPE).missing)
    picture(64, 64, seed=3).save(path)
    assert left < 300
    assert filled(data, tmp_path / "cache").missing == []
