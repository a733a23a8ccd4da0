"""Tiny projects of each family, trained on the simulated card and on the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.reliability import small
from tests.simulated_device import Card, simulated_card
from tests.tiny import tiny_sd, tiny_sdxl

BASES: dict[str, Callable[[Path], object]] = {
    "sd1": tiny_sd,
    "sd2-v": lambda folder: tiny_sd(folder, version=2, prediction="v_prediction"),
    "sdxl": tiny_sdxl,
}
ON_CARD = "run.device='cuda'"
PICTURES = "samples={prompts=['a cat','a dog'],width=16,height=16,steps=1,every=2,at_start=true}"
QUESTIONS = "validation={split=0.4,every=1,draws=1,training_images=1}"


def project(folder: Path, base: str = "") -> Path:
    """A project with a tiny base of a family, or the smallest one there is."""
    file = small.make(folder)
    if base:
        shutil.rmtree(folder / "base")
        BASES[base](folder / "base")
    return file


def train_on_card(file: Path, *overrides: str, name: str = "card", resume: bool = False) -> Card:
    """Trains to the end, and sees to it that what trains was on the card."""
    with simulated_card() as card:
        found = small.training(file, ON_CARD, f"run.name='{name}'", *overrides, resume=resume)
        assert found.run() == "done"
        trained = [p for p in found.loop.network.parameters() if p.requires_grad]
        assert trained
        assert {p.device.type for p in trained} == {"cuda"}
    return card


def train_on_cpu(file: Path, *overrides: str, name: str = "cpu", resume: bool = False) -> None:
    assert small.training(file, f"run.name='{name}'", *overrides, resume=resume).run() == "done"


def end_state(file: Path, name: str) -> str:
    """A hash of weights, optimizer, schedule, averages."""
    newest = max(small.run_dir(file, name).checkpoints.iterdir())
    return small.state_hash(newest)
