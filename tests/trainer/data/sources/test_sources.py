"""Subsets other than a plain folder of images with text files: JSON, folder names, regularisation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.data.conftest import Folder, Scan, picture
from trainer.data.dataset import Dataset
from trainer.data.sources.classes import class_names
from trainer.errors import UserError

TABLE: dict[str, Any] = {"resolution": 64}


def captions(found: Dataset) -> dict[str, tuple[str, ...]]:
    return {Path(item.path).name: item.captions for item in found.items}


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


PRESERVED = {"custom_attributes": {"diff_output_preservation": True}}
REG = {"is_reg": True, "image_dir": "regular"}


@pytest.mark.parametrize(
    ("table", "subset", "data", "expected"),
    [
        ({}, {}, {}, (False, False)),
        ({}, PRESERVED, {}, (True, False)),
        (PRESERVED, {}, {}, (True, True)),
        ({"prior_prediction": True}, {"prior_prediction": False}, {}, (False, True)),
        ({}, {}, {"prior_prediction": True}, (False, True)),
    ],
)
def test_who_teaches_the_answers_of_the_base(
    folder: Folder,
    scanned: Scan,
    table: dict[str, Any],
    subset: dict[str, Any],
    data: dict[str, Any],
    expected: tuple[bool, bool],
) -> None:
    for name in ("images", "regular"):
        folder(name, {"a.png": (64, 64)}, {"a.txt": "a"})
    found = scanned(TABLE | table | {"subsets": [{"image_dir": "images", **subset}, REG]}, data=data)
    assert tuple(source.of_base for source in found.sources) == expected
    assert not any("custom_attributes" in note for note in found.notes)


def test_a_multiplier_of_the_lora_is_not_passed_over(folder: Folder, scanned: Scan) -> None:
    folder("images", {"a.png": (64, 64)}, {"a.txt": "a"})
    with pytest.raises(UserError, match=r"datasets\[0\]\.network_multiplier: found 0\.5"):
        scanned(TABLE | {"network_multiplier": 0.5, "subsets": [{"image_dir": "images"}]})


def test_attributes_that_change_nothing_are_fine(folder: Folder, scanned: Scan) -> None:
    folder("images", {"a.png": (64, 64)}, {"a.txt": "a"})
    attributes = {"diff_output_preservation": False, "note": "free"}
    subset = {"image_dir": "images", "custom_attributes": attributes}
    found = scanned(TABLE | {"network_multiplier": 1.0, "subsets": [subset]})
    assert any("custom_attributes has no effect" in note for note in found.notes)


def test_metadata_keys_without_extension_are_found_everywhere(folder: Folder, scanned: Scan, tmp_path: Path) -> None:
    """Below image_dir and as absolute paths, as sd-scripts finds them; names may have dots."""
    folder("images", {"a.png": (64, 64)})
    folder("images/sub", {"b.jpg": (64, 64), "v1.5.png": (64, 64)})
    elsewhere = folder("elsewhere", {"c.webp": (64, 64)})
    content = {"a": "one", "sub/b": "two", "sub/v1.5": "three", str(elsewhere / "c"): "four"}
    write_json(tmp_path / "meta.json", {key: {"caption": caption} for key, caption in content.items()})
    found = scanned(TABLE | {"subsets": [{"metadata_file": "meta.json", "image_dir": "images"}]})
    assert captions(found) == {"a.png": ("one",), "b.jpg": ("two",), "v1.5.png": ("three",), "c.webp": ("four",)}


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
    images = folder("images", {"a.png": (64, 64), "b.png": (64, 64), "c.png": (64, 64)})
    entries = [{"image_path": "a.png", "caption": "a cat"}, {"image_path": "b.png", "tags": "dog"}]
    entries.append({"file_name": "c.png", "text": "a bird"})  # as Hugging Face's image folders write it
    (images / "meta.jsonl").write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    # Without image_dir keys are relative to the metadata file.
    found = scanned(TABLE | {"subsets": [{"metadata_file": "images/meta.jsonl"}]})
    assert captions(found) == {"a.png": ("a cat",), "b.png": ("dog",), "c.png": ("a bird",)}


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
    with pytest.raises(UserError, match=r"data\.train_data_dir: there is no folder 'gone' \(rel"):
        scanned(general=TABLE, data={"train_data_dir": "gone"})
    with pytest.raises(UserError, match=r"data\.reg_data_dir: has no effect"):
        scanned(general=TABLE, data={"reg_data_dir": "train"})


def test_folders_of_classes(folder: Folder, scanned: Scan) -> None:
    folder("classes/tench, Tinca", {"a.png": (64, 64)}, {"a.txt": "a tench"})
    folder("classes/2_dog", {"b.png": (64, 64), "c.png": (64, 64)})
    folder("classes/.hidden", {"d.png": (64, 64)})
    found = scanned(general={"resolution": 64}, data={"class_dir": "classes"})
    assert captions(found) == {"a.png": ("a tench",), "b.png": ("2_dog",), "c.png": ("2_dog",)}
    assert {item.repeats for item in found.items} == {1}
    assert not any("missing captions" in note for note in found.notes)  # a folder's name says it
    with pytest.raises(UserError, match=r"data\.class_dir: '.*a' holds no folders; expected one for each class"):
        folder("a", {"e.png": (64, 64)})
        scanned(general=TABLE, data={"class_dir": "a"})


def test_names_of_classes(tmp_path: Path) -> None:
    for name in ("b", "a", ".c"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "names.txt").write_text("tench, Tinca\n\n dog \n")
    assert class_names(str(tmp_path / "data")) == ("a", "b")
    assert class_names(str(tmp_path / "names.txt")) == ("tench, Tinca", "dog")
    assert class_names(["dog", "cat"]) == ("dog", "cat")
    assert class_names([]) == class_names("") == ()
    for wrong, told in ((["a", "a"], "'a' stands there more than once"), (["a", " "], "found an empty name")):
        with pytest.raises(UserError, match=f"model.classes: {told}"):
            class_names(wrong)


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
