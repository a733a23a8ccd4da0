"""Where a run stands, from its files: one word for it, the numbers beside it, what can be asked of it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

from trainer.journal.run_dir import RunDir
from trainer.run.holder import holder_of
from ui.work import processes
from ui.work.history import History, history, number
from ui.workspace import DAY, Workspace

MOST_WATCHED = 20

State = Literal["starting", "training", "paused", "finished", "stopped", "failed", "ended"]
LIVE: tuple[State, ...] = ("starting", "training", "paused")
WORDS: dict[State, str] = {
    "starting": "starting",
    "training": "training",
    "paused": "paused",
    "finished": "finished",
    "stopped": "stopped",
    "failed": "failed",
    "ended": "interrupted",
}
PILLS: dict[State, str] = {
    "starting": "live",
    "training": "live",
    "paused": "warn",
    "finished": "ok",
    "stopped": "warn",
    "failed": "bad",
    "ended": "bad",
}


@dataclass(frozen=True)
class Status:
    """`state` in one word; `message`: what went wrong, or what happens next."""

    state: State
    step: int
    steps: int
    loss: float
    rate: float | None  # steps per second
    epoch: float
    device: str
    message: str
    kept: bool = False  # whether there is a checkpoint to go on from

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def seconds_left(self) -> float | None:
        return (self.steps - self.step) / self.rate if self.rate and self.steps else None

    @property
    def can(self) -> set[str]:
        """What may be asked for now."""
        if self.state == "starting":
            return {"stop", "stop now"}
        if self.state == "training":
            return {"stop", "stop now", "pause", "save", "sample"}
        if self.state == "paused":
            return {"stop", "stop now", "go", "save", "sample"}
        return {"resume"} if self.kept and self.state in ("stopped", "failed", "ended") else set()


def status(workspace: Workspace, name: str, run: RunDir) -> Status:
    told = history(run)
    state = _state(workspace, name, run, told)
    return Status(
        state=state,
        step=told.step,
        steps=told.steps,
        loss=number(told.last_step.get("loss")),
        rate=told.steps_per_second(),
        epoch=number(told.last_step.get("epoch")),
        device=str(told.start.get("device", "")),
        message=_message(workspace, name, state, told, kept=(kept := bool(checkpoints(run)))),
        kept=kept,
    )


def watched(workspace: Workspace) -> dict[str, State]:
    """Where the newest runs stand that were started here within a day; the queue's are among them."""
    started = workspace.note("starts", {})
    recent = [n for n, note in started.items() if isinstance(note, dict) and number(note.get("time")) > _yesterday()]
    runs = workspace.runs()
    return {name: status(workspace, name, runs[name]).state for name in recent[-MOST_WATCHED:] if name in runs}


def _yesterday() -> float:
    return time.time() - DAY


def checkpoints(run: RunDir) -> list[str]:
    """Names of what a run can go on from, the newest first."""
    return sorted((p.name for p in run.checkpoints.glob("step-*") if p.is_dir()), reverse=True)


def _state(workspace: Workspace, name: str, run: RunDir, told: History) -> State:
    if holder_of(run):
        begun = processes.started(workspace, name).get("time", 0)
        if not told.start or number(told.start.get("time")) < number(begun):
            return "starting"
        return "paused" if processes.paused(workspace, name) else "training"
    if processes.starting(workspace, name):
        return "starting"
    note = processes.started(workspace, name)
    if note and number(note.get("time")) > max(_time(told.start), _time(told.end)):
        return "failed"  # it was started, and ended before it had anything to tell
    if told.end.get("event") == "stop":
        return "finished" if told.end.get("reason") == "done" else "stopped"
    return "failed" if told.end.get("event") == "error" else "ended"


def _time(event: dict[str, object]) -> float:
    found = number(event.get("time"))
    return 0.0 if math.isnan(found) else found


def _message(workspace: Workspace, name: str, state: State, told: History, *, kept: bool) -> str:
    if state == "failed":
        if told.end.get("event") == "error" and not _failed_at_start(workspace, name, told):
            return str(told.end.get("message", ""))
        return "\n".join(tail(processes.start_log(workspace, name), 12))
    if state == "starting":
        lines = tail(processes.start_log(workspace, name), 1)
        return lines[-1] if lines else "Loading the program."
    if state == "ended":
        on = "Resume goes on from the last checkpoint." if kept else "Nothing was saved yet: start it again."
        return f"Its process ended without a word (killed, or power lost). {on}"
    if state == "finished":
        return ""
    return str(told.notices[-1].get("message", "")) if told.notices else ""


def _failed_at_start(workspace: Workspace, name: str, told: History) -> bool:
    note = processes.started(workspace, name)
    return bool(note) and number(note.get("time")) > max(_time(told.start), _time(told.end))


def tail(path: object, count: int, most: int = 64 * 1024) -> list[str]:
    """The last lines of a text file."""
    from pathlib import Path

    try:
        with Path(str(path)).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - most))
            lines = file.read().decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    except OSError:
        return []
    return [line.rsplit("\r", 1)[-1] for line in lines if line.strip()][-count:]


def clock(seconds: float) -> str:
    """75 -> 1:15; 3675 -> 1:01:15"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def rate_text(rate: float | None) -> str:
    """Steps per second, or seconds per step where that is the larger number."""
    if not rate:
        return "-"
    return f"{rate:.2f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step"
