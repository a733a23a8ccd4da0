"""Who holds a run folder: one process at a time, named in pid.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType

import psutil
from filelock import FileLock, Timeout

from trainer.errors import UserError
from trainer.files.atomic import write_text
from trainer.run_dir import RunDir


def holder_of(run_dir: RunDir) -> int | None:
    """The pid of the process that runs it, or None. A pid that was given to another process since does not count."""
    try:
        told = json.loads(run_dir.pid.read_text(encoding="utf-8"))
        process = psutil.Process(int(told["pid"]))
        alive = abs(process.create_time() - float(told["created"])) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return process.pid if alive else None


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


def in_use(path: Path, pid: int | None) -> UserError:
    who = "another process" if pid is None else f"process {pid}"
    return UserError(f"run.name: {path} is in use by {who}. Stop that run, or change run.name.")
