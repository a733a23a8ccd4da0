"""Every example config is valid, says nothing odd, and leaves Noise Oversampling one commented line away."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import reading
from trainer.config.checks import notes

FOLDER = Path(__file__).parents[1] / "configs"
FILES = sorted(FOLDER.glob("*.toml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_example_config(file: Path) -> None:
    assert notes(reading.read(file)) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_noise_oversampling_is_one_commented_line_away(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    config, asked = (
        reading.parse(t, directory=FOLDER) for t in (text, text.replace("# oversampling = 64", "oversampling = 64"))
    )
    assert list(config.noise.stages()) == []
    assert list(asked.noise.stages()) == ["oversampling"]
