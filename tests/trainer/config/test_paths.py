"""A path that leads nowhere is told once, as it was written, with what it is relative to."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.assembly import readiness
from trainer.config import paths, reading
from trainer.config.schema.base import extra

KEYS = {
    "model.base": "x.safetensors",
    "model.vae": "x.safetensors",
    "model.classes": "names.txt",
    "model.text_encoder": "x.safetensors",
    "model.tokenizer": "words",
    "lora.init_from": "x.safetensors",
    "samples.prompts": "prompts.txt",
    "data.train_data_dir": "photos",
    "data.class_dir": "photos",
    "data.reg_data_dir": "photos",
    "datasets[0].subsets[0].image_dir": "photos",
    "datasets[0].subsets[0].metadata_file": "meta.json",
    "datasets[0].subsets[0].conditioning_data_dir": "masks",
}
MADE = {"run.output_dir", "data.cache_dir", "data.config", "slider.prompts_file"}


def config_with(folder: Path, key: str, value: str) -> list[str]:
    """What is said of a config whose only missing path is at this key."""
    (folder / "base").mkdir(exist_ok=True)
    (folder / "base/model_index.json").write_text('{"unet": ["a", "b"], "text_encoder": ["a", "b"]}')
    for name in ("good", "train/1_cat"):
        (folder / name).mkdir(exist_ok=True, parents=True)
        (folder / name / "1.png").touch()
    needs = {"data.reg_data_dir": ["data.train_data_dir='train'"]}
    text = '[model]\nbase = "base"\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = "good"\n'
    overrides = [*needs.get(key, []), f"{key}='{value}'"]
    return readiness.of_material(reading.parse(text, overrides, directory=folder))


def test_every_path_of_the_schema_is_among_them() -> None:
    from trainer.config.keys import keys

    known = {key.replace("[0]", "[]") for key in KEYS} | MADE
    named = {key for key, field in keys() if extra(field).get("path")}
    assert {key for key in named if not key.startswith("validation.")} == known


@pytest.mark.parametrize("key", KEYS)
def test_a_relative_path(tmp_path: Path, key: str) -> None:
    (line,) = config_with(tmp_path, key, KEYS[key])
    assert line.startswith(f"{key}: there is no ")
    assert f" {KEYS[key]!r} (relative to {tmp_path}, where the config file lies)." in line
    assert line.count(KEYS[key]) == 1


@pytest.mark.parametrize("key", KEYS)
def test_an_absolute_path(tmp_path: Path, key: str) -> None:
    path = f"{tmp_path}/gone/{KEYS[key]}"
    (line,) = config_with(tmp_path, key, path)
    assert line.count(path) == 1 and "relative" not in line
    assert line.endswith(f" There is no 'gone' in {tmp_path.name}.")


@pytest.mark.parametrize("key", KEYS)
def test_a_path_of_windows(tmp_path: Path, key: str) -> None:
    (line,) = config_with(tmp_path, key, f"D:\\sd\\{KEYS[key]}")
    assert line.startswith(f"{key}: 'D:\\sd\\{KEYS[key]}' is written as on Windows, and this is ")
    assert f"'/mnt/d/sd/{KEYS[key]}'" in line


@pytest.mark.parametrize(
    ("written", "wanted", "expected"),
    [
        ("godo", "folder", "k: there is no folder 'godo' (relative to {at}). Did you mean 'good', which is there?"),
        ("pony.png", "folder", "k: there is no folder 'pony.png' (relative to {at})."),
        ("good", "file", "k: 'good' (relative to {at}) is a folder, not a file."),
        ("good/1.png", "folder", "k: 'good/1.png' (relative to {at}) is a file, not a folder."),
        ("good", "folder", ""),
        ("owner/name", "base", ""),
        ("~/no-such", "folder", "k: there is no folder '{home}/no-such'."),
    ],
)
def test_what_is_said(tmp_path: Path, written: str, wanted: paths.Wanted, expected: str) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good/1.png").touch()
    (tmp_path / "cats.png").touch()
    at = f"{tmp_path}, where the config file lies"
    said = paths.problem("k", paths.absolute(written, tmp_path) if wanted != "base" else written, wanted)
    assert said == expected.format(at=at, home=Path.home())


def test_a_folder_of_results_in_the_way_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert paths.in_the_way(tmp_path / "a/b") == ""
    assert paths.in_the_way(tmp_path / "file") == "it is a file, not a folder"
    assert paths.in_the_way(tmp_path / "file/run") == f"{tmp_path}/file is a file, not a folder"
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert paths.in_the_way(tmp_path / "link") == "it is a link to nothing"
