"""Two processes: accumulation, short batches, one writer, and going on with another number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from torch import distributed

from tests.reliability import forks
from tests.trainer import runs
from tests.trainer.parallel.two_processes import train
from trainer.assembly.processes import accelerator_for, leave
from trainer.config import reading
from trainer.errors import UserError
from trainer.journal.run_dir import RunDir

ROOT = Path(__file__).parents[3]
STEPS = "training.steps=4"


def together(project: Path, *arguments: str) -> list[dict[str, Any]]:
    """What both processes saw."""
    return forks.ranks(2, lambda: train(project, *arguments))


def stream(ranks: list[dict[str, Any]], accumulation: int) -> list[list[str]]:
    """The batches in the order of the stream that the processes share."""
    count = len(ranks[0]["names"])
    return [
        list(ranks[rank]["names"][step * accumulation + micro])
        for step in range(count // accumulation)
        for micro in range(accumulation)
        for rank in (0, 1)
    ]


def alone(project: Path, *overrides: str) -> list[list[str]]:
    """The batches of one process that goes on."""
    found = runs.training(project, "noise.oversampling=8", *overrides, resume=True)
    seen: list[list[str]] = []
    real = found.loop.gradients.batch

    def batch(index: int) -> Any:
        made = real(index)
        seen.append(list(made.names))
        return made

    found.loop.gradients.batch = batch
    found.run()
    return seen


def test_a_run_goes_on_with_another_number_of_processes_in_the_same_order(tmp_path: Path) -> None:
    project = runs.make_project(tmp_path / "p")
    whole = together(project, "run.name='whole'", STEPS, "training.gradient_accumulation=2")
    assert [r["processes"] for r in whole] == [2, 2]
    assert whole[0]["weights"] == whole[1]["weights"]
    order = stream(whole, 2)  # 4 steps of 2 x 2 micro-batches
    assert sorted(len(names) for names in order[:3]) == [1, 2, 2], "five images: the last batch of an epoch is short"
    folder = RunDir(project.parent / "output" / "whole")
    assert [e["step"] for e in folder.events() if e["event"] == "step"] == [1, 2, 3, 4], "one process writes"

    half = ("run.name='half'", "save.every=2", "training.gradient_accumulation=2")
    together(project, *half, "training.steps=2")
    with pytest.raises(UserError, match=r"made of 4 micro-batches .* set training.gradient_accumulation = 4"):
        runs.training(project, "noise.oversampling=8", *half, STEPS, resume=True)
    seen = alone(project, *half[:2], "training.gradient_accumulation=4", STEPS)
    assert seen == order[8:], "the same batches as the run of two processes that was not interrupted"


def test_a_run_of_one_process_goes_on_with_two(tmp_path: Path) -> None:
    project = runs.make_project(tmp_path / "p")
    runs.train(project, "noise.oversampling=8", "training.steps=2", "training.gradient_accumulation=2")
    ranks = together(project, STEPS, "--resume")
    assert ranks[0]["weights"] == ranks[1]["weights"]
    expected = runs.training(project, "run.name='other'", STEPS, "training.gradient_accumulation=2")
    assert stream(ranks, 1) == [list(expected.loop.gradients.batch(index).names) for index in range(4, 8)]


@pytest.mark.parametrize("kind", ["MEGATRON_LM"])
def test_what_is_not_supported_is_refused_by_the_name_of_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    config = reading.read(runs.make_project(tmp_path / "p", images=1))
    with pytest.raises(UserError, match=rf"distributed_type: {kind}.*fsdp\.yaml"):
        accelerator_for(config)


def test_the_processes_part_at_the_end() -> None:
    def one() -> tuple[bool, bool]:
        Accelerator(cpu=True)
        before = distributed.is_initialized()
        leave()
        return before, distributed.is_initialized()

    assert forks.ranks(2, one) == [(True, False)] * 2
    leave()  # nothing where there is one process


def test_accelerate_reads_the_example() -> None:
    found = load_config_from_file(str(ROOT / "configs" / "accelerate" / "ddp.yaml"))
    assert str(found.distributed_type.value) == "MULTI_GPU"
    assert found.num_machines == 1 and found.num_processes > 1


def test_an_adapter_that_is_dropped_in_one_process_holds_up_nobody(tmp_path: Path) -> None:
    project = runs.make_project(tmp_path / "p")
    ranks = together(project, STEPS, "lora={method='loha',module_dropout=0.5}", "training.text_encoder=true")
    assert ranks[0]["weights"] == ranks[1]["weights"]
