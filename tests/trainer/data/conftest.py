"""Folders of small pictures, and a scan of them as a config would ask for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.config.schema.data import DatasetSettings, DataSettings, GeneralSettings
from trainer.data.dataset import Dataset
from trainer.data.sources.scan import scan


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise: every pixel differs, so that a wrong crop or turn shows."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


Folder = Callable[..., Path]
Scan = Callable[..., Dataset]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """folder("name", {"a.png": (64, 48)}, {"a.txt": "a cat"}) -> its path."""

    def make(name: str, pictures: dict[str, tuple[int, int]], texts: dict[str, str] | None = None) -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        for number, (file, size) in enumerate(pictures.items()):
            picture(*size, seed=number).save(path / file)
        for file, text in (texts or {}).items():
            (path / file).write_bytes(text.encode())
        return path

    return make


@pytest.fixture
def scanned(tmp_path: Path) -> Scan:
    """scanned({"resolution": 64, "subsets": [...]}, general={...}, data={...}) as if written in a file in tmp_path."""

    def run(
        *tables: dict[str, Any], general: dict[str, Any] | None = None, data: dict[str, Any] | None = None
    ) -> Dataset:
        return scan(
            [DatasetSettings.model_validate(table) for table in tables],
            GeneralSettings.model_validate(general or {}),
            DataSettings.model_validate(data or {}),
            config_dir=tmp_path,
        )

    return run
