"""The operating system itself refuses to write (a limit on the size of files): the message says path, need and free,
training goes on, the last good checkpoint stays, and the end of a run waits for room."""

from __future__ import annotations

import errno
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.reliability import small
from tests.reliability.artefacts import ARTEFACTS, same_state, state
from tests.reliability.disk import Counter, watched
from tests.reliability.forks import forked
from trainer.errors import RunError
from trainer.run import checkpoint
from trainer.training import between_steps


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return small.make(tmp_path / "a project")


def limit_files_to(size: int) -> None:
    """For this process; a limit can be raised again."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def events(project: Path, kind: str) -> list[dict[str, Any]]:
    return [e for e in small.run_dir(project).events() if e["event"] == kind]


@pytest.mark.parametrize("size", [0, 1, 4096, 100_000, -1])
def test_a_checkpoint_that_does_not_fit(tmp_path: Path, size: int) -> None:
    """size: bytes; -1: all but the last byte of the largest file."""
    elements = 40_000
    target = tmp_path / "step-000007"
    checkpoint.save(target, state(1, elements=elements))
    largest = max(file.stat().st_size for file in target.iterdir())

    def fails() -> str:
        limit_files_to(size if size >= 0 else largest - 1)
        with pytest.raises(OSError, match="needed, ") as caught:
            checkpoint.save(target, state(2, elements=elements))
        return str(caught.value)

    message = forked(fails).returned()
    assert str(target) in message
    assert f"{checkpoint.stage(state(2, elements=elements)).size / 1024:.1f} KB needed" in message
    assert "free in" in message
    assert [path.name for path in tmp_path.iterdir()] == ["step-000007"]
    assert same_state(checkpoint.load(target), state(1, elements=elements))


@pytest.mark.parametrize("name", ["checkpoint", "lora"])
def test_nothing_is_begun_where_it_cannot_fit(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    artefact = ARTEFACTS[name]
    artefact.write(tmp_path / artefact.name, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    counter = Counter()
    with watched(tmp_path, counter), pytest.raises(OSError, match="10 bytes free") as caught:
        artefact.write(tmp_path / artefact.name, 2)
    assert caught.value.errno == errno.ENOSPC
    assert {kind for kind, _ in counter.calls} <= {"unlink"}
    assert artefact.version(tmp_path / artefact.name) == 1


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_disk_that_fills_up_on_the_way_and_has_room_again_at_the_end(project: Path, method: str) -> None:
    small.training(project, f"training.method='{method}'", "run.name='roomy'").run()

    def run() -> tuple[str, list[str]]:
        found = small.training(project, f"training.method='{method}'", "save.every=1", "save.keep=10")
        real, checkpoints = found.loop.gradients.batch, small.run_dir(project).checkpoints

        def batch(index: int) -> Any:
            if index == 2:
                limit_files_to(20_000)  # the log still fits
            return real(index)

        found.loop.gradients.batch = batch
        waited = iter(range(100))

        def wait(seconds: float) -> bool:
            if next(waited) == 1:
                limit_files_to(resource.RLIM_INFINITY)
            return False

        found.loop.control.wait = wait  # type: ignore[method-assign]
        return found.run(), sorted(path.name for path in checkpoints.iterdir())

    outcome, kept = forked(run).returned()
    assert outcome == "done"
    assert kept == ["step-000001", "step-000002", "step-000006"]
    notices = [e["message"] for e in events(project, "notice")]
    assert any("could not write" in n and "needed" in n and "free in" in n for n in notices)
    assert any("trying again" in n for n in notices)
    states = {small.state_hash(small.run_dir(project, name).checkpoint(6)) for name in ("run", "roomy")}
    assert len(states) == 1


def test_a_disk_that_stays_full_ends_the_run_with_a_message_and_it_can_be_resumed(project: Path) -> None:
    small.training(project, "run.name='roomy'").run()

    def run() -> str:
        found = small.training(project, "save.every=2", "save.keep=10")
        real = found.loop.gradients.batch
        found.loop.between.patience = 0.3

        def batch(index: int) -> Any:
            if index == 3:
                limit_files_to(20_000)
            return real(index)

        found.loop.gradients.batch = batch
        with pytest.raises(RunError) as caught:
            found.run()
        return str(caught.value)

    message = forked(run).returned()
    assert "could not write" in message
    assert "--resume" in message
    assert between_steps.RETRY > 1
    assert [e["event"] for e in small.run_dir(project).events()][-1] == "error"
    small.training(project, "save.every=2", "save.keep=10", resume=True).run()
    states = {small.state_hash(small.run_dir(project, name).checkpoint(6)) for name in ("run", "roomy")}
    assert len(states) == 1
    assert small.losses(project) == small.losses(project, "roomy")


def test_logs_that_cannot_be_written_are_written_later(project: Path) -> None:
    def run() -> str:
        found = small.training(project)
        real = found.loop.gradients.batch

        def batch(index: int) -> Any:
            if index == 2:  # a piece of the next line still fits
                limit_files_to(small.run_dir(project).metrics.stat().st_size + 10)
            if index == 5:
                limit_files_to(resource.RLIM_INFINITY)
            return real(index)

        found.loop.gradients.batch = batch
        return found.run()

    assert forked(run).returned() == "done"
    assert [e["step"] for e in events(project, "step")] == [1, 2, 3, 4, 5, 6]
