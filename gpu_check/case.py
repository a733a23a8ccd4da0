"""One training to be measured: which base, what trains, which settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trainer.assembly.run import PreparedRun
from trainer.config import reading
from trainer.config.schema.whole import BaseConfig

SIDES = {"sd1": 512, "sdxl": 1024, "tiny": 64}
NAMES = {"sd1": "SD 1.5", "sdxl": "SDXL", "tiny": "tiny"}
CONFIG = """
[run]
name = "{name}"
[model]
base = "base"
[training]
steps = 100000
preflight = false
[lora]
rank = 16
alpha = 16
[optimizer]
name = "adamw"
lr = 1e-5
[logging]
every = 10
tensorboard = false
[general]
enable_bucket = false
[[datasets]]
resolution = {side}
[[datasets.subsets]]
image_dir = "photos"
"""
PICTURES = 8
Lever = Callable[[PreparedRun], None]


@dataclass(frozen=True)
class Case:
    """lever: changes a run that is ready to start, for what no setting of the config does."""

    name: str
    version: str  # of gpu_check.architecture
    batch: int = 1
    settings: tuple[str, ...] = ()
    needs: str = ""  # a package
    lever: Lever | None = None
    like: str = ""  # the name of the case that differs in one thing

    @property
    def label(self) -> str:
        return f"{NAMES[self.version]} {self.name}"

    @property
    def full(self) -> bool:
        return "training.method='full'" in self.settings

    def config(self, folder: Path, device: torch.device) -> BaseConfig:
        """folder: of its version, made by `project`."""
        file = folder / "run.toml"
        precision = "bf16" if device.type == "cuda" else "fp32"
        usual = [
            f"run.name='{self.label.replace(' ', '-')}'",
            f"run.device='{device.type}'",
            f"training.precision='{precision}'",
            f"general.batch_size={self.batch}",
        ]
        return reading.read(file, [*usual, *self.settings])


def project(folder: Path, version: str, pictures: int = PICTURES) -> Path:
    """Pictures and the config of a version, beside which its base's outline is to lie."""
    side = SIDES[version]
    (folder / "photos").mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(pictures):
        small = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)  # smooth: photographs are no noise
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(folder / "photos" / f"{index}.jpg")
        (folder / "photos" / f"{index}.txt").write_text(f"a photo of a cat {index}", encoding="utf-8")
    (folder / "run.toml").write_text(CONFIG.format(name=version, side=side), encoding="utf-8")
    return folder
