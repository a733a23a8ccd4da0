"""Every example config is valid, and every key it shows exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer import config_io
from trainer.config_checks import notes

FOLDER = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.toml")), ids=lambda file: file.stem)
def test_example_config(file: Path) -> None:
    assert notes(config_io.read(file)) == []
