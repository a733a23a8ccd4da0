"""Real-size runs for benchmarks: generated pictures, a config, and a base with random weights that is on no disk."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests import full_size
from tests.trainer import runs
from trainer.assembly import run as assembled
from trainer.assembly.run import PreparedRun
from trainer.config import reading
from trainer.config.schema.whole import BaseConfig
from trainer.journal.console import Console

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "bitsandbytes")


def environment() -> dict[str, Any]:
    """Versions and devices, for the JSON of a benchmark."""
    found: dict[str, Any] = {name: importlib.metadata.version(name) for name in PACKAGES}
    found["python"] = platform.python_version()
    found["cpu"] = platform.processor() or platform.machine()
    found["threads"] = torch.get_num_threads()
    found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found["cuda"] = torch.version.cuda
    return found


def pictures(folder: Path, count: int, side: int) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(count):
        small = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)  # smooth: photographs are no noise
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{index}.jpg")
        (folder / f"{index}.txt").write_text(f"a photo of a cat {index}")


def project(folder: Path, side: int, images: int) -> Path:
    pictures(folder / "photos", images, side)
    file = folder / "run.toml"
    general = f"[general]\nenable_bucket = false\n[[datasets]]\nresolution = {side}\n"
    file.write_text(runs.CONFIG.partition("[general]")[0] + general + '[[datasets.subsets]]\nimage_dir = "photos"\n')
    return file


def version_of(config: BaseConfig) -> str:
    """Which of `tests.full_size` a config means, by the name of its base."""
    return "sdxl" if "xl" in Path(config.model.base).name.lower() else "sd1"


def training(file: Path, version: str, overrides: Sequence[str]) -> PreparedRun:
    """The run of a config, over a full-size base with random weights."""
    config = reading.read(file, overrides)
    exact = config.training.method == "full" or config.training.precision == "fp32"
    family = full_size.filled(version, torch.float32 if exact else torch.bfloat16)
    found = assembled.training(config, Console(quiet=True), opened=lambda _: family)
    assert found is not None
    return found
