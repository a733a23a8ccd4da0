"""Kills runs at numbered moments: before each call that changes the disk, and before each call of a network."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from diffusers import UNet2DConditionModel

from tests.reliability import small
from tests.reliability.disk import Counter, Kills, watched
from tests.reliability.forks import Outcome, forked
from trainer import registry
from trainer.assembly.run import training
from trainer.config import reading
from trainer.journal.console import Console

SETTINGS = (small.SAMPLES, "save.every=2", "save.keep=1", "training.gradient_accumulation=2")
NETWORKS = ("encode_images", "encode_text", "predict", "decode_latents")


@dataclass(frozen=True)
class Whole:
    """What the uninterrupted run came to."""

    moments: list[tuple[str, str]]
    state: str
    result: bytes
    losses: dict[int, float]


@contextmanager
def numbered(project: Path, counter: Counter) -> Iterator[None]:
    """Every moment inside goes through the counter."""
    family: Any = registry.find("models", "sd")

    def told(name: str) -> Any:
        real = getattr(family, name)

        def call(*args: Any, **named: Any) -> Any:
            counter.before(name, "")
            return real(*args, **named)

        return call

    forward = UNet2DConditionModel.forward

    def unet(*args: Any, **named: Any) -> Any:
        counter.before("unet", "")
        return forward(*args, **named)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(UNet2DConditionModel, "forward", unet))
        for name in NETWORKS:
            stack.enter_context(mock.patch.object(family, name, told(name)))
        stack.enter_context(watched(project.parent, counter))
        yield


def uninterrupted(project: Path) -> Whole:
    def run() -> list[tuple[str, str]]:
        counter = Counter()
        with numbered(project, counter):
            _train(project, "whole")
        return counter.calls

    moments = forked(run).returned()
    return Whole(moments, *_came_to(project, "whole"))


def _came_to(project: Path, name: str) -> tuple[str, bytes, dict[int, float]]:
    run_dir = small.run_dir(project, name)
    content = run_dir.result().with_suffix(".safetensors").read_bytes()
    tensors = content[8 + int.from_bytes(content[:8], "little") :]  # behind the header, which holds the time
    return small.state_hash(run_dir.checkpoint(6)), tensors, small.losses(project, name)


def _train(project: Path, name: str) -> str:
    """From the beginning, or where it was left; nothing when it was the very last moment that was too late."""
    cache = f"data={{cache_to_disk=true,cache_dir='cache-{name}'}}"
    config = reading.read(project, [*SETTINGS, cache, f"run.name='{name}'"])
    found = training(config, Console(quiet=True), resume=True)
    return "done" if found is None else found.run()


def kill(project: Path, name: str, at: int) -> Outcome:
    """Starts or resumes a run that dies before its moment number `at`."""

    def run() -> str:
        with numbered(project, Kills(at)):
            return _train(project, name)

    return forked(run)


def killed_after(project: Path, name: str, seconds: float) -> Outcome:
    """The same after a time: the operating system's timer ends the process where it stands."""

    def run() -> str:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        return _train(project, name)

    return forked(run)


def resumed(project: Path, whole: Whole, name: str) -> None:
    """Runs to the end, and compares with the uninterrupted run."""
    forked(lambda: _train(project, name)).returned()
    state, result, losses = _came_to(project, name)
    assert state == whole.state, name
    assert result == whole.result, name
    assert losses == whole.losses, name
    assert list(small.run_dir(project, name).path.rglob(".partial-*")) == [], name


def killed_and_resumed(project: Path, whole: Whole, at: int, name: str) -> None:
    outcome = kill(project, name, at)
    assert outcome.signal == signal.SIGKILL, (at, outcome)
    resumed(project, whole, name)
