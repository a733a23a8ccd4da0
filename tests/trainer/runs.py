"""Configs and folders for tests that really train: a tiny base, a few generated images, the command line's own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.tiny import tiny_sd
from trainer.assembly import run as assembled
from trainer.assembly.run import PreparedRun
from trainer.config import reading
from trainer.journal.console import Console

CONFIG = """
[run]
name = "run"
device = "cpu"
[model]
base = "base"
[training]
steps = 4
preflight = false
[lora]
rank = 4
alpha = 2
[optimizer]
lr = 1e-3
[logging]
tensorboard = false
[general]
enable_bucket = true
min_bucket_reso = 16
max_bucket_reso = 48
bucket_reso_steps = 8
[[datasets]]
resolution = 32
batch_size = 2
[[datasets.subsets]]
image_dir = "photos"
"""


def make_project(folder: Path, images: int = 5) -> Path:
    """A folder with a tiny base, `images` captioned pictures of several shapes, and the config; returns the config."""
    tiny_sd(folder / "base")
    (folder / "photos").mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(images):
        size = (40, 24, 3) if index % 2 else (32, 32, 3)
        pixels = random.integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{index}.png")
        (folder / "photos" / f"{index}.txt").write_text(f"a photo of a cat {index}")
    file = folder / "run.toml"
    file.write_text(CONFIG)
    return file


def training(file: Path, *overrides: str, resume: bool = False) -> PreparedRun:
    found = assembled.training(reading.read(file, overrides), Console(quiet=True), resume=resume)
    assert found is not None
    return found


def train(file: Path, *overrides: str, resume: bool = False) -> PreparedRun:
    """Trains to the end."""
    found = training(file, *overrides, resume=resume)
    found.run()
    return found
