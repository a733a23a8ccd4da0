"""What `check` says about memory and time: counted on an outline of the base, told in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.trainer.runs import make_project
from trainer.assembly import looks
from trainer.assembly import needs as needs_told
from trainer.assembly.check import check
from trainer.assembly.memory import RESERVED, MemoryEstimate, estimate
from trainer.assembly.model import open_family
from trainer.assembly.needs import good_precision, host_line, memory_line, operations_per_second, time_line
from trainer.assembly.subject import subject_of
from trainer.config import reading
from trainer.config.schema.whole import BaseConfig
from trainer.journal.console import Console, clock
from trainer.training.pace import Pace
from trainer.validation.questions import chosen

CPU = torch.device("cpu")
NEEDS = MemoryEstimate(weights=2 * 2**30, optimizer=2**30, step=5 * 2**30, caching=0, sampling=2**30, operations=4e12)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("needs"))


def needs(project: Path, *overrides: str) -> MemoryEstimate:
    config = reading.read(project, overrides)
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
    config = reading.read(project)
    family = open_family(config, outline=True)
    found = estimate(config, family, (1, 64, 64)).operations
    assert estimate(config, open_family(config, outline=True), (3, 64, 64)).operations == 3 * found
    weights = sum(p.numel() for p in family.parts["unet"].parameters() if p.ndim == 4)
    assert found > 2 * 2 * weights  # each is used at one place at least, forward and backward


def test_the_lines_tell_it_in_words(project: Path) -> None:
    config = reading.read(project)
    line = memory_line(NEEDS, config, CPU)
    assert line.startswith(
        "Memory: about 8.7 GB of a GPU, estimated. A step takes 8.7 GB (weights 2.0 GB, optimizer 1.0"
    )
    assert "drawing samples takes 1.7 GB" in line and "encoding" not in line
    assert pytest.approx(0.745 * 2**30, rel=0.01) == RESERVED
    pace, split = Pace(100, 2, 10, 1, 0), subject_of(config, config_dir=project.parent).split
    told = time_line(NEEDS, config, pace, split, CPU)
    assert told.startswith("Time: 8 TFLOP a step with the largest batch. The cpu here multiplies matrices of fp32 at")
    assert "samples" not in told and "validation" not in told
    assert operations_per_second(CPU, torch.float32) > 1e8


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (9.0, "Host memory: about 8.5 GB (base 4.0 GB, averaged weights 1.0 GB, latents of all images "),
        (8.0, " GB, of which 8.0 GB are free: too little. What saves most: ema.device = 'cuda', fewer other programs."),
    ],
)
def test_the_hosts_memory_is_told_too(
    project: Path, monkeypatch: pytest.MonkeyPatch, free: float, expected: str
) -> None:
    config = reading.read(project, ["ema={decay=0.9,device='cpu'}"])
    split = subject_of(config, config_dir=project.parent).split
    pixels = sum(item.target[0] * item.target[1] for item in split.training.items)
    found = replace(NEEDS, base=4 * 2**30, average=2**30, latent=0.2 * 2**30 / pixels)
    there = SimpleNamespace(total=16 * 2**30, available=int(free * 2**30))
    monkeypatch.setattr(needs_told.psutil, "virtual_memory", lambda: there)
    assert expected in host_line(found, config, split, torch.device("cuda"))
    on_disk = reading.read(project, ["data.cache_to_disk=true"])
    assert "latents" not in host_line(found, on_disk, split, torch.device("cuda"))


def test_the_host_holds_the_base_as_the_run_does(project: Path) -> None:
    plain, small = (needs(project, f"training.precision='{p}'") for p in ("fp32", "bf16"))
    assert 0.5 * plain.base < small.base < plain.base  # the VAE and what trains stay in float32
    assert plain.latent == 4 * 4 / 4 and needs(project, "data.latent_sampling='fresh'").latent == 2 * plain.latent
    averaged = needs(project, "ema={decay=0.9,device='cpu'}")
    assert averaged.average > 0 and averaged.optimizer == plain.optimizer


def test_a_processors_speed_is_measured_in_float32(project: Path) -> None:
    """In bf16 it multiplies many times slower, or by way of float32 anyway: `check` would only take long."""
    config = reading.read(project, ["training.precision=bf16"])
    assert good_precision(config, CPU) == "fp32"
    assert good_precision(config, torch.device("cuda")) == "bf16"


def test_what_looking_on_takes_is_in_the_time_and_told_when_it_is_much(project: Path) -> None:
    """40 of 100 steps' worth: 10 pictures of 64 x 64 pixels, 2 questions each, at the end and every 50 steps."""
    config = reading.read(project, ["samples={prompts=['a','b'],width=64,height=64,steps=5,every=50}"])
    split, pace = subject_of(config, config_dir=project.parent).split, Pace(100, 1, 10, 1, 0)
    pictures = 2 * 2 * 2 * 5  # drawings, prompts, with and without it, steps
    assert looks.operations(config, pace, split, 1.0, 60.0) == {"samples": pictures * 64 * 64}
    needs = replace(NEEDS, operations=1e9, forward=1e9 / 64 / 64)
    assert "Of the whole samples 29%: fewer pictures, or a larger samples.every, take less." in time_line(
        needs, config, pace, split, CPU
    )
    rare = changed_to_end_only(config)
    assert "Of the whole" not in time_line(needs, rare, Pace(200, 1, 10, 1, 0), split, CPU)
    measured = reading.read(project, ["validation={split=0.4,draws=3,training_images=2,every='1 epoch'}"])
    split = subject_of(measured, config_dir=project.parent).split
    assert len(split.held_out.items) == 2
    images = [*split.held_out.items, *chosen(split.training, measured.validation, 2).items]
    pixels = 3 * sum(item.target[0] * item.target[1] for item in images)
    assert looks.operations(measured, pace, split, 2.0, 60.0) == {"validation": 2.0 * pixels * (1 + 10)}


def changed_to_end_only(config: BaseConfig) -> BaseConfig:
    return config.model_copy(update={"samples": config.samples.model_copy(update={"every": 0})})


@pytest.mark.parametrize(("every", "expected"), [(0, 1), (30, 4), (1000, 1), ("2 epochs", 5), ("15s", 4), ("2h", 1)])
def test_how_often_something_happens(every: int | str, expected: int) -> None:
    assert looks.times(every, Pace(100, 1, 10, 1, 0), seconds=60.0) == expected


@pytest.mark.parametrize(
    ("seconds", "text"), [(75, "1:15"), (3675, "1:01:15"), (90_000, "1 day 1:00:00"), (56_211_628, "650 days 14:20:28")]
)
def test_a_long_time_has_days(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_check_tells_it_without_reading_weights(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("plugins.models._diffusers_folder.DiffusersFolder.weights", read)
    found = check(reading.read(project), Console(quiet=True))
    assert found["needs"]["bytes"] > RESERVED and found["needs"]["operations_per_step"] > 0
    assert [line.partition(":")[0] for line in found["estimate"][:3]] == ["Memory", "Host memory", "Time"]
    gone = check(reading.read(project, ["model.base='nowhere'"]), Console(quiet=True))
    assert gone["needs"] == {} and gone["estimate"][0].startswith("Memory and time are not estimated: model.base")
