"""What others can ask of a running trainer, and who holds its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.trainer import runs
from trainer.assembly.run import PreparedRun
from trainer.batch import Batch
from trainer.errors import RunError, UserError
from trainer.journal.run_dir import RunDir
from trainer.run.holder import Holder, Process, holder_of
from trainer.training.control import Control, ask


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return runs.make_project(tmp_path / "a project", images=3)


def kinds(project: Path) -> list[str]:
    return [e["event"] for e in RunDir(project.parent / "output" / "run").events()]


def at_micro_batch(found: PreparedRun, number: int, do: object) -> None:
    """Calls `do(index)` before the micro-batch with that number of this run."""
    real = found.loop.gradients.batch

    def batch(index: int) -> Batch:
        if index == number:
            do(index)  # type: ignore[operator]
        return real(index)

    found.loop.gradients.batch = batch


def test_save_and_stop_are_answered_at_the_next_step(project: Path) -> None:
    found = runs.training(project)
    control = RunDir(project.parent / "output" / "run").control
    at_micro_batch(found, 0, lambda _: ask(control, "save"))
    at_micro_batch(found, 2, lambda _: ask(control, "stop"))
    assert found.run() == "stopped"
    assert kinds(project) == ["start", "step", "save", "step", "step", "stop"]
    assert not control.exists()
    assert runs.train(project, resume=True).loop.start.step == 3


def test_a_paused_run_waits_for_go(project: Path) -> None:
    found = runs.training(project)
    control = RunDir(project.parent / "output" / "run").control
    seen: list[str] = []

    def pause(_: int) -> None:
        ask(control, "pause")

        def go_later() -> None:
            while kinds(project).count("step") < 2:
                time.sleep(0.05)
            time.sleep(0.5)  # a run that did not wait would go on meanwhile
            seen.extend(kinds(project))
            ask(control, "go")

        threading.Thread(target=go_later).start()

    at_micro_batch(found, 1, pause)
    assert found.run() == "done"
    assert seen == ["start", "step", "step"]


def test_unknown_words_are_passed_over(tmp_path: Path) -> None:
    control = Control(tmp_path / "control")
    (tmp_path / "control").write_bytes(b"\xff rm -rf")
    assert control.take() == set()
    assert not control.stop_requested


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    code = (
        "import time\nfrom pathlib import Path\n"
        "from trainer.run.holder import Holder\nfrom trainer.journal.run_dir import RunDir\n"
        f"holder = Holder(RunDir(Path({str(run_dir.path)!r})))\nholder.acquire()\n"
        "print('held', flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert (holder_of(run_dir) or Process(0, 0)).pid == process.pid
        with pytest.raises(UserError, match=f"in use by process {process.pid}"):
            Holder(run_dir).acquire()
    finally:
        process.kill()
        process.wait()
    assert holder_of(run_dir) is None
    with Holder(run_dir):
        assert (holder_of(run_dir) or Process(0, 0)).pid == os.getpid()
    assert holder_of(run_dir) is None


def test_a_pid_that_was_given_to_another_process_holds_nothing(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    created = psutil.Process().create_time()
    run_dir.pid.write_text(json.dumps({"pid": os.getpid(), "created": created - 100}))
    assert holder_of(run_dir) is None
    odd = [f'{{"pid": {pid}, "created": 0}}' for pid in ('"x"', "1e999", "-1", "9" * 30, "null")]
    for damaged in ("", "[]", "{}", *odd):
        run_dir.pid.write_text(damaged)
        assert holder_of(run_dir) is None


def test_steps_without_finite_gradients_are_skipped_counted_and_end_the_run(project: Path) -> None:
    found = runs.training(project, "training.steps=20")
    weights = [p for p in found.loop.network.parameters() if p.requires_grad]
    before: list[torch.Tensor] = []
    real = found.loop.gradients.batch

    def batch(index: int) -> Batch:
        one = real(index)
        if index < 2:
            return one
        if index == 2:
            before.extend(p.detach().clone() for p in weights)
        assert one.latents is not None
        return Batch(**{**vars(one), "latents": one.latents * float("inf")})

    found.loop.gradients.batch = batch
    with pytest.raises(RunError, match=r"5 steps in a row.*\n?.*|NaN or infinity"):
        found.run()
    assert kinds(project) == ["start", "step", "step", *["notice", "step"] * 4, "error"]
    assert all(torch.equal(a, b) for a, b in zip(before, weights, strict=True))


def test_a_full_disk_on_the_way_does_not_end_the_run(project: Path) -> None:
    found = runs.training(project, "save.every=1")
    action = found.loop.periodic[-1]
    real = action.act

    def act(step: int) -> None:
        if step == 2:
            raise OSError(28, "No space left on device", "somewhere.safetensors")
        real(step)

    object.__setattr__(action, "act", act)
    assert found.run() == "done"
    notice = [e for e in RunDir(project.parent / "output" / "run").events() if e["event"] == "notice"]
    assert "could not write somewhere.safetensors (No space left on device)" in notice[0]["message"]
    assert (project.parent / "output" / "run" / "run.safetensors").exists()


def test_memory_that_runs_out_names_what_saves_most(project: Path) -> None:
    found = runs.training(project, "general.batch_size=2")

    def full(_: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    at_micro_batch(found, 0, full)
    with pytest.raises(RunError, match=r"gradient_checkpointing = true, training\.precision = 'bf16', a smaller batch"):
        found.run()
    assert kinds(project)[-1] == "error"
