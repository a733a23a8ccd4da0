"""Stopping a run: Ctrl-C, SIGTERM and the control file, while images are encoded, in a step, in a sample, in a save."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.reliability import small
from tests.reliability.disk import Counter
from tests.reliability.forks import forked
from tests.reliability.kills import numbered
from trainer import __main__
from trainer.journal.run_dir import RunDir
from trainer.training.control import Control, ask

MANY_SAMPLES = "samples={prompts=['a cat'],width=16,height=16,steps=50,at_start=true}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return small.make(tmp_path / "a project")


class At(Counter):
    """Does something at the N-th moment of a kind."""

    def __init__(self, kind: str, number: int, do: Callable[[], object]) -> None:
        super().__init__()
        self.kind, self.number, self.do = kind, number, do

    def before(self, kind: str, path: str, detail: Any = None) -> Any:
        super().before(kind, path, detail)
        if kind == self.kind and [k for k, _ in self.calls].count(kind) == self.number:
            self.do()
        return detail


def command(project: Path, *arguments: str, when: At | None = None) -> tuple[int, str]:
    """Exit code and output of `trainer train`, in a process of its own."""

    def run() -> tuple[int, str]:
        flags = [flag for value in arguments if "=" in value for flag in ("--set", value)]
        rest = [value for value in arguments if "=" not in value]
        log = project.parent / "said.txt"
        line = ["trainer", "train", str(project), *rest, *flags]
        with (
            log.open("w") as said,
            mock.patch("sys.stdout", said),
            mock.patch("sys.stderr", said),
            mock.patch("sys.argv", line),
        ):
            try:
                with numbered(project, when or Counter()):
                    __main__.main()
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
        return code, log.read_text()

    found: tuple[int, str] = forked(run).returned()
    return found


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def kinds(project: Path) -> list[str]:
    return [e["event"] for e in small.run_dir(project).events()]


@pytest.mark.parametrize("way", ["SIGINT", "SIGTERM", "control file"])
@pytest.mark.parametrize(
    ("kind", "number"),
    [
        pytest.param("predict", 3, id="in a step"),
        pytest.param("fsync", 12, id="in a save"),
        pytest.param("decode_latents", 1, id="at the end of a sample"),
    ],
)
def test_a_stop_saves_and_ends_after_the_step_and_resuming_gives_the_same_bits(
    project: Path, way: str, kind: str, number: int
) -> None:
    control = small.run_dir(project).control
    stop = {"SIGINT": interrupt, "SIGTERM": terminate, "control file": lambda: ask(control, "stop")}[way]
    samples = "samples={prompts=['a cat'],width=16,height=16,steps=1,every=2}"
    code, said = command(project, samples, "save.every=2", when=At(kind, number, stop))
    assert code == 0, said
    assert "Traceback" not in said
    stopped = small.run_dir(project).last("stop")
    assert stopped is not None
    assert stopped["reason"] == "stopped"
    assert 0 < stopped["step"] < 6
    assert small.run_dir(project).checkpoint(stopped["step"]).exists()
    assert command(project, samples, "save.every=2", "--resume")[0] == 0
    command(project, "run.name='whole'")
    states = {small.state_hash(small.run_dir(project, name).checkpoint(6)) for name in ("run", "whole")}
    assert len(states) == 1


@pytest.mark.parametrize("way", ["SIGINT", "SIGTERM", "control file"])
@pytest.mark.parametrize("kind", ["encode_images", "encode_text"])
def test_a_stop_while_caches_are_filled_ends_without_a_trace(project: Path, way: str, kind: str) -> None:
    control = small.run_dir(project).control
    stop = {"SIGINT": interrupt, "SIGTERM": terminate, "control file": lambda: ask(control, "stop")}[way]
    code, said = command(project, when=At(kind, 1, stop))
    assert code == 0, said
    assert "stopped before the first step" in said
    assert "Traceback" not in said
    assert [path.name for path in (project.parent / "output").rglob("*") if path.is_file()] == []
    assert command(project, "run.name='whole'")[0] == 0


def test_a_stop_in_the_middle_of_a_sample_does_not_wait_for_it(project: Path) -> None:
    code, said = command(project, MANY_SAMPLES, when=At("unet", 5, interrupt))
    assert code == 0, said
    assert kinds(project)[-1] == "stop"
    assert not list(small.run_dir(project).samples.glob("*.png"))
    resumed = small.training(project, MANY_SAMPLES, resume=True)
    assert resumed.loop.start.step == 0
    small.training(project, "run.name='whole'").run()
    resumed.run()
    states = {small.state_hash(small.run_dir(project, name).checkpoint(6)) for name in ("run", "whole")}
    assert len(states) == 1


class After(Counter):
    """Does something at the first moment of a kind that follows one on a file."""

    def __init__(self, file: str, kind: str, do: Callable[[], object]) -> None:
        super().__init__()
        self.file, self.kind, self.do, self.armed = file, kind, do, False

    def before(self, kind: str, path: str, detail: Any = None) -> Any:
        super().before(kind, path, detail)
        if self.armed and kind == self.kind:
            self.armed = False
            self.do()
        self.armed = self.armed or (kind == "replace" and self.file in path)
        return detail


@pytest.mark.parametrize("way", ["SIGINT", "control file"])
@pytest.mark.parametrize(
    ("file", "kind"),
    [
        pytest.param("step-000002-00", "unet", id="in the second picture"),
        pytest.param("step-000002-01", "predict", id="in a measurement"),
    ],
)
def test_a_stop_cuts_short_what_resuming_completes(project: Path, way: str, file: str, kind: str) -> None:
    looks = (
        "samples={prompts=['a cat --h 16', 'a dog --h 24'],width=16,steps=20,every=2}",
        "validation={split=0.4,draws=4,every=2}",
        "save.every=2",
    )
    assert command(project, *looks, "run.name='whole'")[0] == 0
    cut, whole = small.run_dir(project), small.run_dir(project, "whole")
    stop = {"SIGINT": interrupt, "control file": lambda: ask(cut.control, "stop")}[way]
    code, said = command(project, *looks, when=After(file, kind, stop))
    assert code == 0, said
    stopped = cut.last("stop")
    assert stopped is not None and stopped["step"] == 2, said
    assert "step 2: held-out loss" not in said
    assert len(list(cut.samples.glob("step-000002*"))) == (1 if kind == "unet" else 2)
    assert command(project, *looks, "--resume")[0] == 0
    for folder in ("samples", "validation"):
        found, expected = ({p.name: p.read_bytes() for p in (run.path / folder).iterdir()} for run in (cut, whole))
        assert found == expected
    assert small.state_hash(cut.checkpoint(6)) == small.state_hash(whole.checkpoint(6))


def test_a_second_interrupt_stops_at_once_with_code_130(project: Path) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    code, said = command(project, "save.every=2", when=At("predict", 4, twice))
    assert code == 130, said
    assert "Traceback" not in said
    assert small.run_dir(project).last("stop") is None
    assert command(project, "save.every=2", "--resume")[0] == 0
    command(project, "run.name='whole'")
    states = {small.state_hash(small.run_dir(project, name).checkpoint(6)) for name in ("run", "whole")}
    assert len(states) == 1


def test_what_was_asked_before_the_process_began_is_void(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    control = Control(run_dir.control)
    ask(run_dir.control, "stop")
    control.forget_earlier()
    assert run_dir.control.exists()
    os.utime(run_dir.control, (0, 0))
    control.forget_earlier()
    assert not run_dir.control.exists()
    control.forget_earlier()


def test_a_person_who_waits_for_room_can_give_up(tmp_path: Path) -> None:
    control = Control(RunDir(tmp_path).control)
    assert not control.wait(0.05)
    control.stop_requested = True  # what brought the run here is not what ends the waiting
    assert not control.wait(0.05)
    ask(RunDir(tmp_path).control, "stop")
    assert control.wait(5)
    assert sys.platform != "win32" or control.stop_requested
