"""A disk that fails for a moment, anywhere in a run, costs at most a save: training goes on to the same weights."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from tests.reliability import small
from tests.reliability.disk import Counter, Fails, watched
from tests.reliability.forks import forked
from trainer.assembly.run import PreparedRun
from trainer.training import between_steps

HOW = (errno.ENOSPC, errno.EIO, errno.EACCES, "short")
PLACES = 32


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return small.make(tmp_path / "a project")


def busy(project: Path, name: str) -> PreparedRun:
    return small.training(project, small.SAMPLES, "save.every=2", f"run.name='{name}'")


def watch_the_steps(found: PreparedRun, folder: Path, listener: Counter) -> None:
    """From the first step on: what cannot be written before it is an error at once."""
    real, watching = found.loop.gradients.batch, watched(folder, listener)

    def batch(index: int) -> Any:
        if index == 0:
            watching.__enter__()
        return real(index)

    found.loop.gradients.batch = batch


def test_any_call_of_a_run_may_fail_once(project: Path) -> None:
    def count() -> int:
        counter, found = Counter(), busy(project, "whole")
        watch_the_steps(found, project.parent, counter)
        found.run()
        return len(counter.calls)

    calls = forked(count).returned()
    assert calls > 100
    wanted = small.state_hash(small.run_dir(project, "whole").checkpoint(6))

    def failing(at: int, how: int | str) -> str:
        between_steps.RETRY = 0.01
        fails, found = Fails(at, how), busy(project, f"at-{at}")
        watch_the_steps(found, project.parent, fails)
        return found.run()

    for number in range(PLACES):
        at = 1 + number * calls // PLACES
        outcome = forked(lambda at=at, how=HOW[number % 4]: failing(at, how)).returned()  # type: ignore[misc]
        run_dir = small.run_dir(project, f"at-{at}")
        assert outcome == "done"
        assert small.state_hash(run_dir.checkpoint(6)) == wanted
        assert small.losses(project, f"at-{at}") == small.losses(project, "whole")
        assert run_dir.result().with_suffix(".safetensors").exists()
        assert len(list(run_dir.checkpoints.glob("step-*"))) in (1, 2, 3)  # one may be missing, or gone only later
