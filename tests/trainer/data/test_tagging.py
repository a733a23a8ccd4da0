"""A tagger in ONNX form, made here: what it is given, what is taken of its answer, and what is refused."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from trainer.data import tagging
from trainer.data.tagging import Wish
from trainer.errors import UserError
from trainer.files import ordinary

SIDE = 4
TAGS = (
    ("general", 9),
    ("explicit", 9),
    ("1girl", 0),
    ("red_hair", 0),
    ("^_^", 0),
    ("hatsune_miku", 4),
    ("blue_sky", 0),
)
CHANCES = (0.3, 0.6, 0.9, 0.4, 0.36, 0.86, 0.2)


def network(
    file: Path,
    chances: Sequence[float] = CHANCES,
    *,
    size: Sequence[int | str] = ("n", SIDE, SIDE, 3),
    blue: bool = True,
) -> None:
    """Answers with these numbers; `blue`: multiplied by the mean of the picture's first channel / 100."""
    nodes = [
        helper.make_node("Gather", ["picture", "first"], ["blue"], axis=3),
        helper.make_node("ReduceMean", ["blue"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Div", ["mean", "hundred"], ["share"]),
        helper.make_node("Pow", ["share", "power"], ["factor"]),
        helper.make_node("Unsqueeze", ["factor", "last"], ["row"]),
        helper.make_node("Mul", ["row", "chances"], ["out"]),
    ]
    values = {
        "first": np.array([0], np.int64),
        "last": np.array([1], np.int64),
        "hundred": np.array(100, np.float32),
        "power": np.array(float(blue), np.float32),
        "chances": np.array([list(chances)], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, list(size))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", len(chances)])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(file))


def listed(
    file: Path, rows: Sequence[tuple[str, object]] = TAGS, head: Sequence[str] = ("tag_id", "name", "category")
) -> None:
    with file.open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(head)
        writer.writerows((place, *row) for place, row in enumerate(rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network(tmp_path / "model.onnx")
    listed(tmp_path / "selected_tags.csv")
    Image.new("RGB", (8, 8), (0, 0, 100)).save(tmp_path / "blue.png")
    return tmp_path


def tags(folder: Path, **wish: object) -> list[str]:
    return tagging.opened(str(folder)).tags(folder / "blue.png", Wish(**wish))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({}, ["hatsune miku", "1girl", "red hair", "^_^"]),
        ({"general": 0.5}, ["hatsune miku", "1girl"]),
        ({"character": 0.9, "general": 0.85}, ["1girl"]),
        ({"ratings": True, "general": 0.85, "character": 1.0}, ["explicit", "1girl"]),
        ({"underscores": True, "without": ["red hair", "1GIRL"]}, ["hatsune_miku", "^_^"]),
        ({"general": 0.0, "without": ("hatsune_miku",)}, ["1girl", "red hair", "^_^", "blue sky"]),
    ],
)
def test_what_is_taken(folder: Path, wish: dict[str, object], expected: list[str]) -> None:
    assert tags(folder, **wish) == expected


def test_the_picture_is_blue_first_in_a_white_square_of_the_models_size(folder: Path) -> None:
    """Against what is written out here; the network of these tests answers by the first channel alone."""
    found = tagging.prepared(Image.new("RGB", (4, 2), (10, 20, 30)), 4)
    assert found.shape == (1, 4, 4, 3) and found.dtype == np.float32
    assert found[0, :, 0].tolist() == [[255] * 3, [30, 20, 10], [30, 20, 10], [255] * 3]
    assert tagging.prepared(Image.new("RGB", (9, 9), (10, 20, 30)), 4)[0, 1, 1].tolist() == [30, 20, 10]
    Image.new("RGB", (8, 8), (100, 0, 0)).save(folder / "blue.png")
    assert tags(folder) == []


def test_what_is_transparent_is_white(folder: Path) -> None:
    """So that the numbers are 2.55 times those of the blue picture."""
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(folder / "blue.png")
    assert tags(folder, general=1.0, character=1.0) == ["hatsune miku", "1girl", "red hair"]


def test_a_file_is_as_good_as_its_folder(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "wd.onnx")
    assert tagging.opened(str(folder / "wd.onnx")).side == SIDE


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda f: (f / "model.onnx").unlink(), "there is no model.onnx in"),
        (lambda f: (f / "selected_tags.csv").unlink(), "there is no selected_tags.csv in"),
        (lambda f: (f / "model.onnx").write_bytes(b"\x08\x07nothing"), "cannot be read as ONNX"),
        (lambda f: (f / "model.onnx").write_bytes((f / "model.onnx").read_bytes()[:-40]), "cannot be read as ONNX"),
        (lambda f: network(f / "model.onnx", size=("n", 3, SIDE, SIDE)), "expected one input of pictures"),
        (lambda f: network(f / "model.onnx", CHANCES[:-1]), "gives 6 numbers, but its list has 7 tags"),
        (lambda f: network(f / "model.onnx", [float("nan")] * 7), "gives no numbers for blue.png"),
        (lambda f: listed(f / "selected_tags.csv", head=("tag_id", "tag", "category")), "no column 'name'"),
        (lambda f: listed(f / "selected_tags.csv", [("a", "general")]), "a category that is no whole number"),
        (lambda f: listed(f / "selected_tags.csv", []), "has no tags"),
        (lambda f: listed(f / "selected_tags.csv", [("", 0)]), "a tag without a name"),
        (lambda f: (f / "selected_tags.csv").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
        (lambda f: os.truncate(f / "selected_tags.csv", ordinary.MOST + 1), "268 MB"),
    ],
)
def test_what_is_broken_is_named(folder: Path, harm: object, expected: str) -> None:
    harm(folder)  # type: ignore[operator]
    with pytest.raises(UserError) as error:
        tags(folder)
    assert str(error.value).startswith("--tag: ") and expected in str(error.value)


def test_without_the_package_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tagging, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install onnxruntime"):
        tags(folder)


def test_a_name_that_is_neither_here_nor_an_id_is_told() -> None:
    with pytest.raises(UserError, match=r"there is no file or folder './gone'"):
        tagging.opened("./gone")


def test_the_hub_is_asked_for_two_files_and_its_cache_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((name, allow_patterns, local_files_only))
        if local_files_only:
            raise FileNotFoundError("not in the cache")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert tagging.opened("someone/tagger").side == SIDE
    both = ["model.onnx", "selected_tags.csv"]
    assert asked == [("someone/tagger", both, True), ("someone/tagger", both, False)]
    (folder / "model.onnx").unlink()
    with pytest.raises(UserError, match="neither here nor to be had from the hub"):
        tagging.opened("someone/tagger")
