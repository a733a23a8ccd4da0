"""The GPU memory of the presets, or of any config: measured where there is a GPU, else estimated, and said which.

    python tests/benchmarks/memory.py [--json FILE] [CONFIG or "sdxl 12gb style" ...]

The estimate is the one of `check`: it runs the real networks on the meta device and counts the bytes of every tensor. A
measurement trains three steps over a base with random weights and asks CUDA for the peak.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from rich.console import Console as Rich
from rich.table import Table

from tests import full_size
from tests.benchmarks import cases
from trainer.assembly.memory import RESERVED, estimate
from trainer.config import reading
from trainer.config.presets.choosing import all_presets, preset_of, text_of

STEPS = 3


def measured(file: Path) -> dict[str, float]:
    """Bytes of a real run of the config: the peaks of caching and building, and of its first steps."""
    config = reading.read(file)
    side = config.datasets[0].resolution
    assert isinstance(side, int)
    batch = config.datasets[0].batch_size
    with tempfile.TemporaryDirectory() as folder:
        cases.pictures(Path(folder) / "photos", batch * STEPS, side)
        copy = Path(folder) / "run.toml"
        shutil.copy(file, copy)
        torch.cuda.reset_peak_memory_stats()
        overrides = (f"training.steps={STEPS}", "training.preflight=false", "validation.split=0", "schedule.warmup=0")
        found = cases.training(copy, cases.version_of(config), overrides)
        building = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with found.folder.opened():
            for step in range(STEPS):
                found.loop.take_step(step)
        return {"caching": building, "training": torch.cuda.max_memory_allocated()}


def row(name: str) -> dict[str, Any]:
    """name: a config file or a preset."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(name)
        if not file.is_file():
            file = Path(folder) / "preset.toml"
            file.write_text(text_of(preset_of(name.split())), encoding="utf-8")
        return figures_of(file)


def figures_of(file: Path) -> dict[str, Any]:
    config = reading.read(file)
    found = estimate(config, full_size.make(cases.version_of(config)))
    figures: dict[str, Any] = {
        "estimated": {
            "weights": found.weights,
            "optimizer": found.optimizer,
            "step": found.step,
            "caching": found.caching,
            "sampling": found.sampling,
            "reserved": RESERVED,
            "total": found.total,
        }
    }
    if torch.cuda.is_available():
        figures["measured"] = measured(file)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=[preset.name for preset in all_presets()])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {name: row(name) for name in arguments.configs}
    table = Table("config", "training", "caching", "sampling", "needed (estimated)", "training (measured)")
    for name, found in figures.items():
        e = found["estimated"]
        training = e["weights"] + e["optimizer"] + e["step"]
        cells = [training, e["caching"], e["sampling"], e["total"], found.get("measured", {}).get("training", 0)]
        table.add_row(name, *(f"{cell / 1e9:.1f} GB" if cell else "-" for cell in cells))
    Rich().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"environment": cases.environment(), **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
