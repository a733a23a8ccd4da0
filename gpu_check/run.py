"""Measures, within the minutes that are given, and writes each figure as soon as it exists."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console as Rich

from gpu_check import encoding, machine, noise, plan, steps, suite, told
from gpu_check.architecture import write_outline
from gpu_check.case import NAMES, Case, project
from trainer.files.atomic import write_text

FOR_TESTS = 0.4  # of the time
NO_CARD = (
    "There is no CUDA card here: what follows are tiny models on the CPU. They show that everything runs, not how fast "
    "a card is."
)
LATENTS = {"sd1": (4, 64, 64), "sdxl": (4, 128, 128), "tiny": (4, 8, 8)}
CANDIDATES = (64, 256)
LEAST = {"cuda": 25.0, "cpu": 3.0}  # seconds that must be left to begin something


@dataclass
class Check:
    """What was found so far, and when to end. Everything found is in `file` at once."""

    file: Path
    until: float  # time.monotonic()
    say: Callable[[str], None]
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def keep(self, room: str, name: str, figures: dict[str, Any], label: str = "") -> None:
        if room:
            self.found.setdefault(room, {})[name] = figures
        else:
            self.found[name] = figures
        self._write()
        self.say(told.line(label or name, figures))

    def leave_out(self, name: str, reason: str) -> None:
        self.found.setdefault("left_out", {})[name] = reason
        self._write()

    def _write(self) -> None:
        write_text(self.file, json.dumps(self.found, indent=2) + "\n")


def main(minutes: float, file: Path) -> None:
    """Raises no error for what a single measurement cannot do on this machine: it is told."""
    say = Rich(soft_wrap=True, highlight=False).print
    device = machine.device_of()
    check = Check(file, time.monotonic() + 60 * minutes, say)
    check.found = {
        "device": machine.description(device),
        "versions": machine.versions(),
        "left_out": {},
        "trainings": {},
    }
    if device.type != "cuda":
        torch.set_num_threads(1)  # more make tiny models slower
        say(NO_CARD)
    for package, what in machine.missing().items():
        check.leave_out(what, f"{package} is not installed")
    check.keep("", "speeds", machine.speeds(device))
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        _measure(check, device, Path(folder))
    Rich(width=140).print(told.table(check.found["trainings"]))
    for line in told.lines(check.found):
        say(line)
    say(f"everything is in {file}")


def _measure(check: Check, device: torch.device, folder: Path) -> None:
    real = device.type == "cuda"
    versions = ("sd1", "sdxl") if real else ("tiny",)
    folders = {version: project(folder / version, version) for version in versions}
    for version, place in folders.items():
        write_outline(version, place / "base")
    bench = steps.Bench(device, folders, check.found["speeds"]["operations_per_second"], 6.0 if real else 0.5)
    if real:
        _trainings(check, bench, [Case("LoRA b1", "sdxl", 1)])  # it alone says most
        _tests(check)
    cases = [*plan.first_cases()] if real else [*plan.cpu_cases()]
    _trainings(check, bench, cases)
    for version in versions:
        draws = partial(noise.measure, device, (1, *LATENTS[version]), CANDIDATES)
        _one(check, "noise", NAMES[version], device, draws)
    for version in versions:
        _one(check, "encoding", NAMES[version], device, partial(encoding.measure, version, bench))
    if real:
        _trainings(check, bench, plan.lever_cases())


def _tests(check: Check) -> None:
    if "pytest" in machine.missing() or not suite.FOLDER.is_dir():
        check.leave_out("the GPU tests", "they are not part of an installation, or pytest is missing")
        return
    check.keep("", "tests", suite.measure(FOR_TESTS * check.left), "GPU tests")


def _trainings(check: Check, bench: steps.Bench, cases: Iterable[Case]) -> None:
    there = check.found["trainings"]
    for case in cases:
        if case.label in there:
            continue
        if case.needs in machine.missing():
            check.leave_out(case.label, f"{case.needs} is not installed")
            continue
        _one(check, "trainings", case.label, bench.device, partial(_training, case, bench))


def _training(case: Case, bench: steps.Bench) -> dict[str, Any]:
    like = {"like": f"{NAMES[case.version]} {case.like}"} if case.like else {}
    return steps.measure(case, bench) | like


def _one(check: Check, room: str, name: str, device: torch.device, work: Callable[[], dict[str, Any]]) -> None:
    """One measurement, if there is time; whatever it cannot do does not end the others."""
    if check.left < LEAST[device.type]:
        check.leave_out(name if room == "trainings" else f"{room}, {name}", "no time was left; give more --minutes")
        return
    label = name if room == "trainings" else f"{room}, {name}"
    try:
        figures = work()
    except Exception as error:  # a fault of one measurement, which is told by its name
        figures = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        machine.forget(device)
    check.keep(room, name, figures, label)
