"""performance.tf32 and performance.cudnn_benchmark: what they set, where, and that nothing is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.reliability import small
from tests.simulated_device import simulated_card
from trainer.assembly import run as assembled
from trainer.assembly.processes import accelerator_for
from trainer.config import reading
from trainer.config.schema.whole import BaseConfig
from trainer.device import kernels
from trainer.errors import UserError
from trainer.journal.console import Console

Flags = tuple[bool, bool, bool]


def flags() -> Flags:
    """TF32 in products, TF32 in convolutions, trials of convolutions."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    with kernels.kept():
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return small.make(tmp_path / "a project")


def config(file: Path, *overrides: str) -> BaseConfig:
    return reading.read(file, overrides)


@pytest.mark.parametrize(("asked", "found"), [("auto", (False, True)), ("on", (True, True)), ("off", (False, False))])
def test_what_float32_means_is_settled_with_the_device(file: Path, asked: str, found: tuple[bool, bool]) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = not found[0], not found[1]
    accelerator_for(config(file, f"performance.tf32='{asked}'"))
    assert flags()[:2] == found


def chosen(given: BaseConfig, device: str, steps: int, shapes: int) -> tuple[bool, list[str]]:
    """Whether convolutions are tried, and what is told, for a run of so many batches of so many shapes."""
    material: Any = SimpleNamespace(
        accelerator=SimpleNamespace(device=torch.device(device)),
        pace=SimpleNamespace(steps=steps, accumulation=2),
        source=SimpleNamespace(plan=SimpleNamespace(shapes=lambda: set(range(shapes)))),
    )
    lines: list[str] = []
    console = Console(quiet=True)
    console.say = lines.append  # type: ignore[method-assign]
    assembled._choose_kernels(given, console, material)
    return flags()[2], lines


def test_convolutions_are_tried_where_sizes_repeat(file: Path) -> None:
    usual, strict = config(file), config(file, "run.deterministic=true")
    assert chosen(usual, "cuda", 100, 4) == (True, [])
    assert chosen(usual, "cuda", 99, 4) == (False, [])
    assert chosen(usual, "cpu", 100, 4) == (False, [])
    assert chosen(strict, "cuda", 100, 4) == (False, [])
    assert chosen(config(file, "performance.cudnn_benchmark='on'"), "cuda", 1, 4) == (True, [])
    assert chosen(config(file, "performance.cudnn_benchmark='off'"), "cuda", 100, 4) == (False, [])


def test_on_without_an_effect_is_told(file: Path) -> None:
    asked = config(file, "performance.tf32='on'")
    assert "no effect here" in chosen(asked, "cpu", 1, 1)[1][0]
    with simulated_card():
        assert chosen(asked, "cuda", 1, 1)[1] == []


def test_what_excludes_the_same_bits_is_refused(file: Path) -> None:
    with pytest.raises(UserError, match=r"performance\.cudnn_benchmark: 'on' .* run\.deterministic = true"):
        config(file, "run.deterministic=true", "performance.cudnn_benchmark='on'")


def test_nothing_is_left_of_it_after_a_run(file: Path) -> None:
    before = flags()
    during: list[Flags] = []
    console = Console(quiet=True)

    def say(line: str) -> None:
        during.append(flags())

    console.say = say  # type: ignore[method-assign]
    assert assembled.train(config(file, "performance.tf32='on'", "training.steps=1"), console) == "done"
    assert during[-1][:2] == (True, True)
    assert flags() == before
