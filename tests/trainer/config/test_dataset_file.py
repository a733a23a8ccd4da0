"""A dataset file of its own gives the same values as its tables pasted into the run's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.config.dataset_file import included

KOHYA = """
[general]
shuffle_caption = true
keep_tokens = 1

[[datasets]]
resolution = 512
[[datasets.subsets]]
image_dir = "cats"
[[datasets.subsets]]
image_dir = "/abs/dogs"
metadata_file = "meta.json"
"""


def test_tables_come_in_with_paths_from_their_own_folder(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/d.toml").write_text("\ufeff" + KOHYA, encoding="utf-8")
    values = {"run": {"seed": 1}, "data": {"config": "sets/d.toml", "skip_broken": True}}
    merged, name, problems = included(values, tmp_path)
    assert (name, problems) == ("sets/d.toml", [])
    assert merged["run"] == {"seed": 1} and merged["data"] == {"skip_broken": True}
    assert merged["general"] == {"shuffle_caption": True, "keep_tokens": 1}
    assert merged["datasets"][0]["resolution"] == 512
    assert merged["datasets"][0]["subsets"] == [
        {"image_dir": str(tmp_path / "sets/cats")},
        {"image_dir": "/abs/dogs", "metadata_file": str(tmp_path / "sets/meta.json")},
    ]


def test_json_is_read_too(tmp_path: Path) -> None:
    content = {"datasets": [{"resolution": 512, "subsets": [{"image_dir": "cats"}]}]}
    (tmp_path / "d.json").write_text(json.dumps(content))
    merged, _, problems = included({"data": {"config": "d.json"}}, tmp_path)
    assert problems == [] and merged["datasets"][0]["subsets"][0]["image_dir"] == str(tmp_path / "cats")


def test_without_a_dataset_file_nothing_changes(tmp_path: Path) -> None:
    for values in ({}, {"data": {}}, {"data": {"config": ""}}, {"data": 3}, {"data": {"config": 3}}):
        assert included(values, tmp_path) == (values, "", [])


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("[[datasets]]\n", {"datasets": []}, ["datasets: stands in this file and in data.config = 'd.toml'"]),
        ("[general]\n[extra]\n", {}, ["data.config: 'd.toml' holds 'extra', but a dataset file has only"]),
        ("a = \n", {}, ["data.config: 'd.toml' is not valid: Invalid value (at line 1, column 5)"]),
        (None, {}, ["data.config: there is no file 'd.toml' (relative to "]),
        ("datasets = [3, {subsets = [4, {image_dir = 5}]}]", {}, []),
    ],
)
def test_problems(tmp_path: Path, text: str | None, values: dict[str, Any], expected: list[str]) -> None:
    if text is not None:
        (tmp_path / "d.toml").write_text(text)
    _, _, problems = included({"data": {"config": "d.toml"}, **values}, tmp_path)
    assert len(problems) == len(expected)
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(start)
