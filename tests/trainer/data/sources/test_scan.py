"""What a scan finds, and every way in which it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.trainer.data.conftest import Folder, Scan, picture
from trainer.config.schema.data import DatasetSettings, DataSettings, GeneralSettings
from trainer.data.dataset import Dataset
from trainer.data.order.loader import Loader
from trainer.data.order.plan import Plan
from trainer.data.sources.scan import scan
from trainer.errors import UserError


def problems(scanned: Scan, *tables: dict, **more: dict) -> list[str]:
    with pytest.raises(UserError) as caught:
        scanned(*tables, **more)
    return caught.value.problems


def names(dataset: Dataset) -> list[str]:
    return [item.path.rpartition("/")[2] for item in dataset.items]


def test_items_of_a_folder(folder: Folder, scanned: Scan) -> None:
    folder("cats", {"b.png": (200, 100), "a.jpg": (64, 64)}, {"a.txt": "a cat\n", "b.txt": "two cats"})
    found = scanned({"resolution": 64, "subsets": [{"image_dir": "cats", "num_repeats": 3}]})
    assert names(found) == ["a.jpg", "b.png"]
    a, b = found.items
    assert (a.captions, b.captions) == (("a cat",), ("two cats",))
    assert (b.original, b.resized, b.corner, b.target) == ((200, 100), (128, 64), (32, 0), (64, 64))
    assert a.repeats == b.repeats == 3
    assert found.notes == () and found.skipped == ()


def test_lookup_subset_then_dataset_then_general(folder: Folder, scanned: Scan) -> None:
    for name in ("one", "two", "three"):
        folder(name, {"a.png": (64, 64)})
    found = scanned(
        {"batch_size": 3, "num_repeats": 5, "subsets": [{"image_dir": "one", "num_repeats": 7}, {"image_dir": "two"}]},
        {"resolution": 32, "subsets": [{"image_dir": "three"}]},
        general={"resolution": 128, "batch_size": 2, "num_repeats": 4, "class_tokens": "thing"},
    )
    assert [item.repeats for item in found.items] == [7, 5, 4]
    assert [item.target for item in found.items] == [(128, 128), (128, 128), (32, 32)]
    assert [found.batch_size(item) for item in found.items] == [3, 3, 2]
    assert {item.captions for item in found.items} == {("thing",)}


def test_buckets(folder: Folder, scanned: Scan) -> None:
    folder("cats", {"a.png": (300, 200), "b.png": (64, 64)})
    general = {"resolution": 512, "enable_bucket": True, "class_tokens": "cat"}
    found = scanned({"subsets": [{"image_dir": "cats"}]}, general=general)
    assert [item.target for item in found.items] == [(640, 384), (512, 512)]
    tiny = scanned({"resolution": 64, "bucket_reso_steps": 8, "subsets": [{"image_dir": "cats"}]}, general=general)
    # max_bucket_reso keeps its default 1024, min_bucket_reso gives way to the resolution.
    assert [item.target for item in tiny.items] == [(64, 64), (64, 64)]


def test_missing_captions_are_counted_and_named(folder: Folder, scanned: Scan) -> None:
    folder("cats", {f"{i}.png": (64, 64) for i in range(9)}, {"0.txt": "a cat", "1.txt": "", "2.txt": "one\ntwo"})
    found = scanned({"resolution": 64, "subsets": [{"image_dir": "cats", "class_tokens": "cat"}]})
    assert [item.captions[0] for item in found.items] == ["a cat", "", "one"] + ["cat"] * 6
    missing, empty, several = found.notes
    assert "missing captions: 6 of 9 use class_tokens 'cat': 3.png, 4.png, 5.png, 6.png, 7.png and 1 more" in missing
    assert "empty captions: 1 of 9: 1.png" in empty
    assert "each time): 2.png" in several
    without = scanned({"resolution": 64, "subsets": [{"image_dir": "cats"}]})
    assert "missing captions: 6 of 9 train with the empty caption: 3.png" in without.notes[0]


def test_no_captions_at_all_is_an_error_with_a_hint(folder: Folder, scanned: Scan) -> None:
    folder("cats", {"a.png": (64, 64)}, {"a.txt": "a cat"})
    table = {"resolution": 64, "subsets": [{"image_dir": "cats", "caption_extension": ".caption"}]}
    (problem,) = problems(scanned, table)
    assert "datasets[0].subsets[0]: none of the 1 images" in problem
    assert "There are 1 .txt files: set caption_extension = '.txt'" in problem


def test_all_problems_at_once(folder: Folder, scanned: Scan) -> None:
    folder("empty", {})
    folder("cats", {"a.png": (64, 64)}, {"a.txt": "x"})
    listed = problems(
        scanned,
        {"resolution": 100, "subsets": [{"image_dir": "gone"}, {"image_dir": "empty"}, {}]},
        {"resolution": 64, "subsets": [{"image_dir": "cats"}, {"image_dir": "./cats/../cats"}]},
        {"resolution": 64},
    )
    assert len(listed) == 6
    expected = [
        "datasets[0].resolution: 100 is not a multiple of 8 pixels",
        "datasets[0].subsets[0].image_dir: there is no folder 'gone' (relative to ",
        "datasets[0].subsets[1].image_dir: no images in 'empty' (looked for .png .jpg .jpeg .webp .bmp .avif",
        "datasets[0].subsets[2].image_dir: not set",
        "datasets[1].subsets[1].image_dir: './cats/../cats' is used by datasets[1].subsets[0] already",
        "datasets[2].subsets: there are none",
    ]
    for line, start in zip(listed, expected, strict=True):
        assert line.startswith(start)


def test_broken_images_and_captions_are_all_named(folder: Folder, scanned: Scan) -> None:
    path = folder("cats", {"a.png": (64, 64), "cut.png": (64, 64)}, {"a.txt": "a"})
    (path / "zero.jpg").touch()
    (path / "cut.png").write_bytes((path / "cut.png").read_bytes()[:-60])
    (path / "a.txt").write_bytes(b"caf\xe9")
    table = {"resolution": 64, "subsets": [{"image_dir": "cats", "class_tokens": "cat"}]}
    listed = problems(scanned, table)
    assert len(listed) == 3
    assert "a.txt: not UTF-8" in listed[0]
    assert "cut.png: truncated" in listed[1] and "skip_broken" in listed[1]
    assert "zero.jpg: the file is empty" in listed[2]


def test_skip_broken_lists_what_it_leaves_out(folder: Folder, scanned: Scan) -> None:
    path = folder("cats", {"a.png": (64, 64)})
    (path / "zero.jpg").touch()
    table = {"resolution": 64, "subsets": [{"image_dir": "cats", "class_tokens": "cat"}]}
    found = scanned(table, data={"skip_broken": True})
    assert names(found) == ["a.png"]
    assert [(s.path, s.reason) for s in found.skipped] == [(str(path / "zero.jpg"), "the file is empty (0 bytes)")]
    (path / "a.png").unlink()
    assert "no image is left" in problems(scanned, table, data={"skip_broken": True})[0]


def test_different_caption_files_for_one_image(folder: Folder, scanned: Scan) -> None:
    folder("cats", {"a.png": (64, 64)}, {"a.txt": "a cat", "a.caption": "a dog"})
    (problem,) = problems(scanned, {"resolution": 64, "subsets": [{"image_dir": "cats"}]})
    assert "a.txt and " in problem and "a.caption say different things" in problem


def test_sizes_that_cannot_work(folder: Folder, scanned: Scan) -> None:
    folder("cats", {"a.png": (64, 64)})
    subsets = [{"image_dir": "cats", "class_tokens": "cat"}]
    listed = problems(
        scanned,
        {"resolution": [512, 4], "subsets": subsets},
        {"resolution": 512, "enable_bucket": True, "bucket_reso_steps": 12, "subsets": subsets},
        {"resolution": 512, "enable_bucket": True, "min_bucket_reso": 640, "subsets": subsets},
        {"resolution": 512, "enable_bucket": True, "max_bucket_reso": 320, "subsets": subsets},
    )
    assert [line.split(":")[0] for line in listed] == [
        "datasets[0].resolution",
        "datasets[1].bucket_reso_steps",
        "datasets[2].min_bucket_reso",
        "datasets[3].max_bucket_reso",
    ]


def test_hidden_files_are_not_images(folder: Folder, scanned: Scan) -> None:
    path = folder("cats", {"a.png": (64, 64)})
    (path / "._a.png").write_bytes(b"finder")
    picture(64, 64).save(path / "UPPER.PNG")
    found = scanned({"resolution": 64, "subsets": [{"image_dir": "cats", "class_tokens": "cat"}]})
    assert names(found) == ["UPPER.PNG", "a.png"]


def test_awkward_names(folder: Folder, scanned: Scan) -> None:
    path = folder("cats and dogs 😀", {"a b.png": (64, 64), "ü😀.png": (64, 64), "it's [1].png": (64, 64)})
    odd = os.fsencode(path) + b"/\xff\xfe.png"
    try:
        with open(odd, "wb") as file:  # noqa: PTH123  (a name that is no text)
            picture(64, 64).save(file, "png")
    except OSError:
        odd = b""  # this file system allows only text, so nobody can have such a name here
    table = {"resolution": 64, "subsets": [{"image_dir": path.name, "class_tokens": "cat"}]}
    found = scanned(table)
    assert len(found.items) == 3 + bool(odd)
    batches = [Loader(found, Plan(found, 0), 0).batch(index) for index in range(len(found.items))]
    shown = {name for batch in batches for name in batch.names}
    assert all(name.encode("utf-8") for name in shown)  # any terminal can print them
    if odd:
        assert any(name.endswith("/\\xff\\xfe.png") for name in shown)
        os.truncate(odd, 20)
        (problem,) = problems(scanned, table)
        assert "\\xff\\xfe.png: " in problem and problem.encode("utf-8")


def test_a_thread_of_an_image_trains(folder: Folder, scanned: Scan) -> None:
    folder("cats", {"tall.png": (1, 10_000), "wide.png": (10_000, 1)})
    table = {"resolution": 256, "enable_bucket": True, "subsets": [{"image_dir": "cats", "class_tokens": "cat"}]}
    found = scanned(table)
    assert [item.target for item in found.items] == [(256, 256), (256, 256)]
    pixels = Loader(found, Plan(found, 0), 0).batch(0).pixels
    assert pixels is not None and pixels.shape == (1, 3, 256, 256)


def test_keep_going_collects_what_training_would_stop_at(folder: Folder, scanned: Scan, tmp_path: Path) -> None:
    path = folder("cats", {"a.png": (64, 64), "b.png": (64, 64)}, {"a.txt": "a", "b.txt": "b"})
    (path / "zero.jpg").touch()
    (path / "b.txt").write_bytes(b"caf\xe9")
    tables = [DatasetSettings.model_validate({"resolution": 64, "subsets": [{"image_dir": "cats"}]})]
    found = scan(tables, GeneralSettings(), DataSettings(), config_dir=tmp_path, keep_going=True)
    assert names(found) == ["a.png"]
    assert [(Path(f.path).name, f.reason.split(":")[-1].split("(")[0].strip()) for f in found.faults] == [
        ("b.png", "not UTF-8"),
        ("zero.jpg", "the file is empty"),
    ]
