"""Who holds a run folder: one process at a time, named in pid.json."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from filelock import FileLock, Timeout

from trainer.errors import UserError
from trainer.files.atomic import write_text
from trainer.journal.run_dir import RunDir


@dataclass(frozen=True)
class Process:
    """A process that is known by its number and the time when it began: numbers are used again."""

    pid: int
    created: float

    @property
    def alive(self) -> bool:
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.created) < 1.0
            return same and found.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, ValueError, OverflowError):  # the last two: no number that a process can have
            return False


def living(told: Any) -> Process | None:
    """The process that a pid.json, or a note like it, names, as long as it lives."""
    try:
        found = Process(int(told["pid"]), float(told["created"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return found if found.alive else None


def holder_of(run_dir: RunDir) -> Process | None:
    """The living process that runs it."""
    try:
        return living(json.loads(run_dir.pid.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


class Holder:
    """Holds a run folder for the life of this process, or until `release`."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._lock = FileLock(run_dir.path / ".lock")

    def acquire(self) -> None:
        """Raises UserError naming the process that holds the folder."""
        self._run_dir.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise in_use(self._run_dir.path, holder_of(self._run_dir)) from None
        pid = os.getpid()
        write_text(self._run_dir.pid, json.dumps({"pid": pid, "created": psutil.Process(pid).create_time()}))

    def release(self) -> None:
        self._run_dir.pid.unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> Holder:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def in_use(path: Path, holder: Process | None) -> UserError:
    who = "another process" if holder is None else f"process {holder.pid}"
    return UserError(f"run.name: {path} is in use by {who}. Stop that run, or change run.name.")
