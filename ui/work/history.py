"""What a run has told so far, read from metrics.jsonl piece by piece as the file grows."""

from __future__ import annotations

import json
import threading
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.journal.run_dir import RunDir

Event = dict[str, Any]
RATE_WINDOW = 50  # logged steps over which the speed is measured
KINDS = ("start", "validation", "sample", "save", "notice", "stop", "error")
PLAIN = {"grad_norm", "preservation", "images_per_second", "memory", "memory_gb"}  # numbers of a step
GROUPS = {"lr": "lr", "loss_by_timestep": "bins"}  # tables of a step, and what their curves begin with


class Curve:
    """A series over steps. Points that a resumed run does again replace those of the first time."""

    def __init__(self) -> None:
        self.steps, self.values = array("d"), array("d")

    def add(self, step: float, value: float) -> None:
        self.steps.append(step)
        self.values.append(value)

    def back_to(self, step: float) -> None:
        """Forgets everything after a step."""
        while self.steps and self.steps[-1] > step:
            self.steps.pop()
            self.values.pop()

    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.array(self.steps), np.array(self.values)

    def __len__(self) -> int:
        return len(self.steps)


@dataclass
class History:
    """All events of one run, by kind."""

    start: Event = field(default_factory=dict)
    curves: dict[str, Curve] = field(
        default_factory=dict
    )  # loss, lr/unet, grad_norm, images_per_second, bins/0-249 ...
    last_step: Event = field(default_factory=dict)
    validations: list[Event] = field(default_factory=list)
    samples: list[Event] = field(default_factory=list)
    saves: list[Event] = field(default_factory=list)
    notices: list[Event] = field(default_factory=list)
    end: Event = field(default_factory=dict)  # the stop or error that came last, {} while it goes on
    count: int = 0  # events read
    _times: array[float] = field(default_factory=lambda: array("d"))

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return whole(self.start.get("steps"))

    @property
    def step(self) -> int:
        return max(whole(e.get("step")) for e in (self.start, self.last_step, self.end))

    def curve(self, name: str) -> Curve:
        found = self.curves.get(name)
        if found is None:
            found = self.curves[name] = Curve()
        return found

    def steps_per_second(self) -> float | None:
        """Over the newest logged steps, without the longest gap (a pause, a sample, a save)."""
        loss = self.curve("loss")
        n = min(RATE_WINDOW, len(self._times), len(loss))
        if n < 3:
            return None
        gaps = np.diff(np.array(self._times[-n:]))
        done = np.diff(np.array(loss.steps[-n:]))
        longest = int(gaps.argmax())
        seconds, steps = gaps.sum() - gaps[longest], done.sum() - done[longest]
        return float(steps / seconds) if seconds > 0 and steps > 0 else None

    def take(self, event: Event) -> None:
        self.count += 1
        kind = event.get("event")
        if kind == "step":  # nearly all of them
            self._take_step(event)
        elif isinstance(kind, str) and kind in KINDS:
            getattr(self, f"_take_{kind}")(event)

    def _take_start(self, event: Event) -> None:
        self.start, self.end = event, {}
        begins = whole(event.get("step"))
        self._times = array("d")
        self.last_step = {}
        for curve in self.curves.values():
            curve.back_to(begins)
        for events in (self.validations, self.samples, self.saves):
            events[:] = [e for e in events if whole(e.get("step")) <= begins]

    def _take_step(self, event: Event) -> None:
        step = whole(event.get("step"))
        self.last_step, self.end = event, {}
        self._times.append(number(event.get("time")))
        self.curve("loss").add(step, number(event.get("loss")))
        for name in PLAIN & event.keys():
            if event[name] is not None:
                self.curve(name).add(step, number(event[name]))
        for group in GROUPS.keys() & event.keys():
            for part, value in as_dict(event[group]).items():
                self.curve(f"{GROUPS[group]}/{part}").add(step, number(value))

    def _take_validation(self, event: Event) -> None:
        self.validations.append(event)

    def _take_sample(self, event: Event) -> None:
        self.samples.append(event)

    def _take_save(self, event: Event) -> None:
        self.saves.append(event)

    def _take_notice(self, event: Event) -> None:
        self.notices.append(event)
        del self.notices[:-100]

    def _take_stop(self, event: Event) -> None:
        self.end = event

    def _take_error(self, event: Event) -> None:
        self.end = event


def number(value: Any) -> float:
    """NaN for what is none: the trainer writes a loss that is not finite as text."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")


def whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def as_dict(value: Any) -> Event:
    return value if isinstance(value, dict) else {}


class _Reader:
    """Follows one file; only whole lines count, so that a line that is being written is read the next time."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self.history, self.offset, self.file = History(), 0, 0

    def read(self) -> History:
        with self.lock:
            try:
                with self.path.open("rb") as file:
                    self._follow(file.fileno(), file)
            except OSError:
                self._forget()
            return self.history

    def _follow(self, handle: int, file: Any) -> None:
        import os

        stat = os.fstat(handle)
        if stat.st_size < self.offset or stat.st_ino != self.file:
            self._forget()  # another file under the same name
            self.file = stat.st_ino
        file.seek(self.offset)
        content = file.read()
        whole_lines = content[: content.rfind(b"\n") + 1]
        self.offset += len(whole_lines)
        if not whole_lines:
            return
        for event in _events(whole_lines.splitlines()):
            self.history.take(event)


def _events(lines: Sequence[bytes]) -> Iterable[Event]:
    try:
        # All at once takes a third less time than line by line, and a run may have very many lines.
        found = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        found = _one_by_one(lines)
    return [event for event in found if isinstance(event, dict)]


def _one_by_one(lines: Iterable[bytes]) -> Iterable[Any]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue  # a line that a killed run left unfinished


_readers: dict[Path, _Reader] = {}


def history(run: RunDir) -> History:
    """Everything that a run has told until now; what was read before is not read again."""
    return _readers.setdefault(run.metrics, _Reader(run.metrics)).read()
