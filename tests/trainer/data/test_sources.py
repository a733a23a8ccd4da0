"""Subsets other than a plain folder of images with text files: JSON, folder names, regularisation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.data.conftest import Folder, Scan, picture
from trainer.data.dataset import Dataset
from trainer.errors import UserError

TABLE: dict[str, Any] = {"resolution": 64}


def captions(found: Dataset) -> dict[str, tuple[str, ...]]:
    return {Path(item.path).name: item.captions for item in found.items}


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def test_metadata_json(folder: Folder, scanned: Scan, tmp_path: Path) -> None:
    folder("images", dict.fromkeys(("a.png", "b.png", "c.png", "left.png"), (64, 64)))
    elsewhere = folder("elsewhere", {"d.png": (80, 64)})
    content = {
        "a.png": {"caption": "a cat\nsecond line", "tags": "black, small", "train_resolution": [64, 64]},
        "b": {"tags": "white"},  # keys may lack the extension
        "c.png": {"caption": "", "tags": ""},
        str(elsewhere / "d.png"): {"captions": ["one", "two"], "tags": ["x", "y"], "loss_weight": 0.5},
    }
    write_json(tmp_path / "meta.json", content)
    subset = {"metadata_file": "meta.json", "image_dir": "images", "loss_weight": 2.0}
    found = scanned(TABLE | {"subsets": [subset]})
    assert captions(found) == {
        "a.png": ("a cat, black, small",),
        "b.png": ("white",),
        "c.png": ("",),
        "d.png": ("one, x, y", "two, x, y"),
    }
    assert {Path(item.path).name: item.weight for item in found.items} == {
        "a.png": 2.0,
        "b.png": 2.0,
        "c.png": 2.0,
        "d.png": 1.0,
    }
    assert [item.origin for item in sorted(found.items, key=lambda i: Path(i.path).name)] == [
        "found",
        "found",
        "empty",
        "found",
    ]
    assert any(
        "1 images of image_dir are not in the metadata file and do not train: left.png" in n for n in found.notes
    )
    lines = scanned(TABLE | {"subsets": [subset | {"enable_wildcard": True, "caption_separator": ";"}]})
    assert captions(lines)["a.png"] == ("a cat; black, small", "second line; black, small")


def test_metadata_lines(folder: Folder, scanned: Scan) -> None:
    images = folder("images", {"a.png": (64, 64), "b.png": (64, 64)})
    entries = [{"image_path": "a.png", "caption": "a cat"}, {"image_path": "b.png", "tags": "dog"}]
    (images / "meta.jsonl").write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    # Without image_dir keys are relative to the metadata file.
    found = scanned(TABLE | {"subsets": [{"metadata_file": "images/meta.jsonl"}]})
    assert captions(found) == {"a.png": ("a cat",), "b.png": ("dog",)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"meta\.json: not valid JSON: .* line 1 column 2"),
        ("[]", "must hold one object with an entry per image"),
        ("{}", "lists no images"),
        ('{"gone.png": {"caption": "x"}}', r"gone\.png: cannot be read: No such file"),
        ('{"a.png": "text"}', r"a\.png: expected an object with caption or tags"),
        ('{"a.png": {"caption": 3}}', r"a\.png: caption is 3, expected a text"),
        ('{"a.png": {"tags": [1]}}', r"a\.png: tags is \[1\], expected a text"),
        ('{"a.png": {"caption": "x", "loss_weight": -1}}', r"a\.png: loss_weight is -1"),
        ('{"a.png": {"image_size": [64, 64]}}', "none of the 1 images .* has a caption or tags"),
    ],
)
def test_wrong_metadata_is_named(folder: Folder, scanned: Scan, content: str, message: str) -> None:
    images = folder("images", {"a.png": (64, 64)})
    (images / "meta.json").write_text(content)
    with pytest.raises(UserError, match=message):
        scanned(TABLE | {"subsets": [{"metadata_file": "images/meta.json"}]})


def test_sidecars(folder: Folder, scanned: Scan) -> None:
    names = ("alone", "both", "foreign", "weight")
    images = folder("images", {f"{n}.png": (64, 64) for n in names}, {"both.txt": "text", "weight.txt": "w"})
    write_json(images / "alone.json", {"captions": ["one", "two"]})
    write_json(images / "both.json", {"caption": "json"})
    write_json(images / "foreign.json", {"url": "..."})
    write_json(images / "weight.json", {"loss_weight": 0.25})
    found = scanned(TABLE | {"subsets": [{"image_dir": "images", "class_tokens": "cls"}]})
    assert captions(found) == {
        "alone.png": ("one", "two"),
        "both.png": ("text",),
        "foreign.png": ("cls",),
        "weight.png": ("w",),
    }
    assert [item.weight for item in found.items] == [1.0, 1.0, 1.0, 0.25]
    asked = scanned(TABLE | {"subsets": [{"image_dir": "images", "class_tokens": "cls", "caption_extension": "json"}]})
    assert captions(asked)["both.png"] == ("json",)


def test_folder_names(folder: Folder, scanned: Scan) -> None:
    folder("train/10_ohwx man", {"a.png": (64, 64)}, {"a.txt": "ohwx man at sea"})
    folder("train/2_dog", {"b.png": (64, 64)})
    folder("train/notes", {"c.png": (64, 64)})
    folder("reg/1_man", {"d.png": (64, 64), "e.png": (64, 64)})
    found = scanned(
        general={"resolution": 64, "batch_size": 2},
        data={"train_data_dir": "train", "reg_data_dir": "reg", "prior_loss_weight": 0.5},
    )
    assert captions(found) == {
        "a.png": ("ohwx man at sea",),
        "b.png": ("dog",),
        "d.png": ("man",),
        "e.png": ("man",),
    }
    assert [(item.repeats, item.weight, item.source.is_reg) for item in found.items] == [
        (10, 1.0, False),
        (2, 1.0, False),
        (1, 0.5, True),
        (1, 0.5, True),
    ]
    assert any("the folder 'notes' does not train" in note for note in found.notes)


def test_folder_names_that_say_nothing(folder: Folder, scanned: Scan) -> None:
    folder("train/cats", {"a.png": (64, 64)})
    with pytest.raises(UserError, match=r"data\.train_data_dir: 'train' holds no folder with a name such as"):
        scanned(general=TABLE, data={"train_data_dir": "train"})
    with pytest.raises(UserError, match=r"data\.train_data_dir: 'gone' cannot be read"):
        scanned(general=TABLE, data={"train_data_dir": "gone"})
    with pytest.raises(UserError, match=r"data\.reg_data_dir: has no effect"):
        scanned(general=TABLE, data={"reg_data_dir": "train"})


def test_regularisation_alone_is_an_error(folder: Folder, scanned: Scan) -> None:
    folder("reg", {"a.png": (64, 64)})
    with pytest.raises(UserError, match=r"datasets\[0\]: all its images are is_reg"):
        scanned(TABLE | {"subsets": [{"image_dir": "reg", "class_tokens": "x", "is_reg": True}]})


def test_several_datasets_may_share_a_folder(folder: Folder, scanned: Scan) -> None:
    folder("images", {"a.png": (90, 64)})
    subsets = [{"image_dir": "images", "class_tokens": "x"}]
    found = scanned({"resolution": 64, "subsets": subsets}, {"resolution": 32, "batch_size": 4, "subsets": subsets})
    assert [(item.target, found.batch_size(item)) for item in found.items] == [((64, 64), 1), ((32, 32), 4)]


def test_formats_that_are_not_read_are_named(folder: Folder, scanned: Scan) -> None:
    images = folder("images", {"a.png": (64, 64)})
    picture(64, 64).save(images / "b.tif")
    found = scanned(TABLE | {"subsets": [{"image_dir": "images", "class_tokens": "x"}]})
    assert any("1 files look like images but are of no format that is read: b.tif" in note for note in found.notes)
