"""The header of a file tells every setting of its run, and no folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.trainer import runs
from trainer.adapters import header as headers
from trainer.config import in_headers, reading
from trainer.config.importing.run import imported
from trainer.files.metadata import SETTINGS

SETTINGS_OF_THE_RUN = (
    "noise.oversampling=8", "noise.offset={strength=0.05}", "timesteps={distribution='sigmoid',shift=2.5}",
    "optimizer={name='adamw',lr=0.01,args={weight_decay=0.03}}", "general.caption_dropout_rate=0.25",
    "samples={prompts=['a secret'],steps=1,width=32,height=32}", "lora.rank=3", "save.comment='mine'",
)  # fmt: skip


def header(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return opened.metadata()


def test_a_file_is_trained_again_as_it_was(tmp_path: Path) -> None:
    project = runs.make_project(tmp_path / "p")
    runs.train(project, *SETTINGS_OF_THE_RUN, "training.steps=1")
    file = next((tmp_path / "p" / "output").rglob("*.safetensors"))
    told = header(file)
    assert str(tmp_path) not in json.dumps(told) and "a secret" not in told[SETTINGS]
    again = reading.parse(imported(file, tmp_path / "p" / "again.toml").text, directory=tmp_path / "p")
    before = reading.read(project, [*SETTINGS_OF_THE_RUN, "training.steps=1"])
    ours, theirs = (in_headers.read(in_headers.written(reading.to_dict(config))) for config in (again, before))
    assert ours == theirs
    assert ours is not None and ours["noise.oversampling.k"] == 8 and ours["timesteps.shift"] == 2.5

    assert in_headers.read(headers.resized(told, {}, "smaller")) is None, "another rank is in there"


def test_a_file_without_them_or_with_damaged_ones_has_none() -> None:
    assert in_headers.read({}) is None
    damaged = (
        '{"run.name": null}',
        '{"x": 1}',
        '{"": 1}',
        '{"a..b": 1}',
        '{"run.name": "\\ud800"}',
        '{"data.a": [[null]]}',
    )
    for text in ("[1]", '{"data.a": [[null]]}', "{", "1", "[" * 100_000, *damaged):
        assert in_headers.read({SETTINGS: text}) is None


def test_whole_paths_lose_their_folders_and_hub_ids_stay() -> None:
    told = {
        "model": {"base": "owner/name", "vae": "C:\\me\\vae.safetensors"},
        "lora": {"init_from": "/home/me/first.safetensors"},
        "slider": {"prompts_file": "/home/me/p.toml", "pairs": [{"target": "a", "action": "erase"}]},
        "datasets": [{"subsets": [{"image_dir": "/home/me/cats", "num_repeats": 2}]}],
        "samples": {"prompts": ["a secret"]},
    }
    assert in_headers.read(in_headers.written(told)) == {
        "model.base": "owner/name",
        "model.vae": "vae.safetensors",
        "lora.init_from": "first.safetensors",
        "slider.pairs": [{"target": "a", "action": "erase"}],
        "datasets": [{"subsets": [{"image_dir": "cats", "num_repeats": 2}]}],
    }


def test_prompts_take_the_place_of_images_there_too(tmp_path: Path) -> None:
    targets = [{"target_class": "a cat", "positive": "an old cat", "negative": "a young cat"}]
    told = {"model": {"base": "owner/name"}, "slider": {"targets": targets}}
    told_by = {"ss_learning_rate": "1", **in_headers.written(told)}
    file = tmp_path / "slider.safetensors"
    save_file({"a.lora_up.weight": torch.zeros(1, 1)}, file, metadata=told_by)
    again = reading.parse(imported(file, tmp_path / "again.toml").text, directory=tmp_path)
    assert not again.datasets and [t.positive for t in again.slider.targets] == ["an old cat"]
