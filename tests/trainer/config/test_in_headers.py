"""The header of a file tells every setting of its run, and no folder."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

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
    for text in ("[1]", "{", "1", "[" * 100_000):
        assert in_headers.read({SETTINGS: text}) is None
