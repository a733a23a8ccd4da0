"""Trainings as processes of their own: starting, finding again, asking, ending.

A training outlives the page and the server. All that ties them is in files: the run's own pid.json, metrics.jsonl and
control file, and for the seconds before those exist the note of the start in the UI's folder.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from trainer.config import reading
from trainer.errors import UserError
from trainer.journal.run_dir import RunDir
from trainer.run.holder import Process, holder_of, living
from trainer.training import control
from trainer.training.control import Word
from ui.workspace import PROGRAM, Workspace

GONE = (OSError, psutil.Error)


def command(*arguments: str) -> list[str]:
    """A command of the trainer; -P: a folder called trainer in the workspace must not be taken for ours."""
    return [sys.executable, "-P", "-m", "trainer", *arguments]


def module(name: str, *arguments: str) -> list[str]:
    """One of the UI's own programs."""
    return [sys.executable, "-P", "-m", name, *arguments]


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(PROGRAM), os.environ.get("PYTHONPATH")]))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GRADIO_")}
    return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def spawn(arguments: Sequence[str], log: Path, cwd: Path) -> subprocess.Popen[bytes]:
    """Starts a program that goes on when this one ends; what it prints goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"start_new_session": True}
    if os.name == "nt":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW  # type: ignore[attr-defined]
        options = {"creationflags": flags}
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(arguments), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=cwd,
            env=environment(), close_fds=True, **options,
        )  # fmt: skip
    # Somebody must take notice of its end, or it stays as a zombie.
    threading.Thread(target=process.wait, daemon=True).start()
    return process


def start(workspace: Workspace, config: Path, *, resume: bool = False, checkpoint: str = "") -> str:
    """Starts a training and returns the run's id. Raises UserError where the config is wrong or the run is going on."""
    asked = reading.read(config)
    folder = Path(asked.run.output_dir) / asked.run.name
    run, name = RunDir(folder), workspace.relative(folder)
    with FileLock(workspace.state / "starts.lock"):
        if holder_of(run) or starting(workspace, name):
            raise UserError(f"{asked.run.name}: this run is going on already.")
        log = start_log(workspace, name)
        extra = ["--resume", *([checkpoint] if checkpoint else [])] if resume else []
        process = spawn(command("train", str(config), *extra), log, workspace.root)
        created = time.time()
        with contextlib.suppress(psutil.Error):
            created = psutil.Process(process.pid).create_time()
        note = {"pid": process.pid, "created": created, "time": time.time(), "config": str(config)}
        workspace.write_note("starts", {**_recent(workspace.note("starts", {})), name: note})
    _forget_ask(workspace, name)
    return name


def resume(workspace: Workspace, name: str, checkpoint: str = "") -> None:
    """Goes on with a run, by the config that it was started with as it is now, else by the run's own copy."""
    run = workspace.run(name)
    written = started(workspace, name).get("config")
    config = Path(str(written)) if written else run.config
    try:
        asked = reading.read(config).run
        same = workspace.relative(Path(asked.output_dir) / asked.name) == name
    except UserError:
        same = False
    start(workspace, config if same else run.config, resume=True, checkpoint=checkpoint)


def _recent(starts: dict[str, Any]) -> dict[str, Any]:
    return dict(list(starts.items())[-200:])


def start_log(workspace: Workspace, name: str) -> Path:
    """What the trainer printed since it was started, also before it had a folder."""
    return workspace.state / "starts" / f"{sha256(name.encode()).hexdigest()[:16]}.log"


def started(workspace: Workspace, name: str) -> dict[str, Any]:
    """The note of the last start of a run, {} where the UI never started it."""
    found = workspace.note("starts", {}).get(name)
    return found if isinstance(found, dict) else {}


def starting(workspace: Workspace, name: str) -> Process | None:
    """The process that was started for a run, as long as it lives."""
    return living(started(workspace, name))


def ask(workspace: Workspace, name: str, word: Word, prompt: str = "") -> None:
    """Asks a training for something; it answers at its next step. Raises UserError."""
    run = workspace.run(name)
    if holder_of(run) is None:
        if word == "stop" and (process := starting(workspace, name)):
            end(process)  # it has no folder yet, so nothing can be lost
            return
        raise UserError(f"{run.name}: this run is not going on.")
    control.ask(run.control, word, prompt)
    if word in ("pause", "go"):
        asked = {**workspace.note("asked", {}), name: {"word": word, "time": time.time()}}
        workspace.write_note("asked", _recent(asked))


def paused(workspace: Workspace, name: str) -> bool:
    """Whether the last thing that the run was asked for is to pause."""
    asked = workspace.note("asked", {}).get(name)
    return isinstance(asked, dict) and asked.get("word") == "pause"


def _forget_ask(workspace: Workspace, name: str) -> None:
    asked = workspace.note("asked", {})
    if name in asked:
        workspace.write_note("asked", {k: v for k, v in asked.items() if k != name})


def stop_now(workspace: Workspace, name: str) -> None:
    """Ends a training at once, without saving. Raises UserError."""
    process = holder_of(workspace.run(name)) or starting(workspace, name)
    if process is None:
        raise UserError(f"{name}: this run is not going on.")
    end(process, at_once=True)


def end(process: Process, *, at_once: bool = False, patience: float = 5.0) -> None:
    """Ends a process and all that it has started."""
    if not process.alive:
        return
    with contextlib.suppress(*GONE):
        first = psutil.Process(process.pid)
        family = [*first.children(recursive=True), first]
        for one in family:
            with contextlib.suppress(*GONE):
                one.kill() if at_once else one.terminate()
        _, left = psutil.wait_procs(family, timeout=patience)
        for one in left:
            with contextlib.suppress(*GONE):
                one.kill()


def stream(arguments: Sequence[str], cwd: Path) -> Iterator[str]:
    """Runs a program and yields what it has printed so far; ends it when nobody listens any more.

    The last text is followed by a line that tells how it ended.
    """
    process = subprocess.Popen(
        list(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd,
        env=environment(), text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            yield "\n".join(lines[-2000:])
        code = process.wait()
        lines.append("" if code == 0 else f"(ended with exit code {code})")
        yield "\n".join(lines[-2000:]).rstrip("\n")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
