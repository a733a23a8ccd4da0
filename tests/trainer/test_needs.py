"""What `check` says about memory and time: counted on an outline of the base, told in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.trainer.runs import make_project
from trainer import config_io
from trainer.build.check import check
from trainer.build.estimate import RESERVED, Estimate, estimate
from trainer.build.model import open_family
from trainer.build.needs import memory_line, operations_per_second, time_line
from trainer.console import Console
from trainer.loop import Pace

CPU = torch.device("cpu")
NEEDS = Estimate(weights=2 * 2**30, optimizer=2**30, step=5 * 2**30, caching=0, sampling=2**30, operations=4e12)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("needs"))


def needs(project: Path, *overrides: str) -> Estimate:
    config = config_io.read(project, overrides)
    return estimate(config, open_family(config, outline=True))


def test_what_costs_more_is_told_to_cost_more(project: Path) -> None:
    lora = needs(project)
    assert needs(project, "datasets[0].batch_size=4").step > 1.9 * lora.step
    assert needs(project, "datasets[0].resolution=128").operations > 3.9 * lora.operations
    full = needs(project, "training.method=full")
    assert full.optimizer > 10 * lora.optimizer
    assert lora.operations < full.operations < 1.5 * lora.operations  # the adapters cost something too
    assert needs(project, "training.text_encoder=true").weights > lora.weights
    light = needs(project, "training.gradient_checkpointing=true", "datasets[0].batch_size=8")
    assert light.step < needs(project, "datasets[0].batch_size=8").step
    assert needs(project, "optimizer.name=sgd").optimizer == 0


def test_operations_are_those_of_the_layers(project: Path) -> None:
    """A text of two chunks adds to the keys and values of every cross attention, and to what they are met with."""
    config = config_io.read(project)
    family = open_family(config, outline=True)
    found = estimate(config, family, (1, 64, 64)).operations
    assert estimate(config, open_family(config, outline=True), (3, 64, 64)).operations == 3 * found
    weights = sum(p.numel() for p in family.parts["unet"].parameters() if p.ndim == 4)
    assert found > 2 * 2 * weights  # each is used at one place at least, forward and backward


def test_the_lines_tell_it_in_words(project: Path) -> None:
    config = config_io.read(project)
    line = memory_line(NEEDS, config, CPU)
    assert line.startswith(
        "Memory: about 8.7 GB of a GPU, estimated. A step takes 8.7 GB (weights 2.0 GB, optimizer 1.0"
    )
    assert "drawing samples takes 1.7 GB" in line and "encoding" not in line
    assert pytest.approx(0.745 * 2**30, rel=0.01) == RESERVED
    pace = Pace(100, 2, 10, 1, 0)
    assert time_line(NEEDS, config, pace, CPU).startswith("Time: 8 TFLOP a step with the largest batch. The cpu here")
    assert operations_per_second(CPU, torch.float32) > 1e8


def test_check_tells_it_without_reading_weights(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("plugins.models._diffusers_folder.DiffusersFolder.weights", read)
    found = check(config_io.read(project), Console(quiet=True))
    assert found["needs"]["bytes"] > RESERVED and found["needs"]["operations_per_step"] > 0
    assert [line.partition(":")[0] for line in found["estimate"][:2]] == ["Memory", "Time"]
    gone = check(config_io.read(project, ["model.base='nowhere'"]), Console(quiet=True))
    assert gone["needs"] == {} and gone["estimate"][0].startswith("Memory and time are not estimated: model.base")
