"""The queue of trainings: a file that pages change, and a process of its own that works it off, one after the other."""

from __future__ import annotations

import contextlib
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.config import reading
from trainer.errors import UserError
from trainer.files.atomic import write_text
from ui.work import processes
from ui.work.status import State, status
from ui.workspace import Workspace, forget

ItemState = Literal["waiting", "running", "done", "stopped", "failed"]
POLL = 1.0  # seconds between looks at the running training
MOST = 500  # items


class QueuedRun(BaseModel):
    """A training in the queue. Its config is a copy, so that later changes of the file do not reach it."""

    model_config = ConfigDict(extra="ignore")
    id: str
    name: str  # of the run
    source: str  # the config it was made from
    run: str = ""  # id of the run, once it is started
    state: ItemState = "waiting"
    resume: bool = False
    message: str = ""
    added: float = 0.0


class Queue(BaseModel):
    """`paused`: nothing new is started; what runs goes on."""

    model_config = ConfigDict(extra="ignore")
    items: list[QueuedRun] = []
    paused: bool = False

    def item(self, id: str) -> QueuedRun:
        found = next((item for item in self.items if item.id == id), None)
        if found is None:
            raise UserError("this training is not in the queue any more.")
        return found


def read(workspace: Workspace) -> Queue:
    try:
        return Queue.model_validate_json((workspace.state / "queue.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return Queue()


def tally(workspace: Workspace) -> dict[str, int]:
    """How many trainings are left, and how those that are over ended."""
    states = [item.state for item in read(workspace).items]
    return {
        "left": sum(state in ("waiting", "running") for state in states),
        "done": states.count("done"),
        "failed": sum(state in ("failed", "stopped") for state in states),
    }


@contextmanager
def changed(workspace: Workspace) -> Iterator[Queue]:
    """The queue, to be changed by nobody else inside the block; written at its end."""
    workspace.state.mkdir(parents=True, exist_ok=True)
    with FileLock(workspace.state / "queue.lock"):
        queue = read(workspace)
        yield queue
        write_text(workspace.state / "queue.json", queue.model_dump_json(indent=1))


def copy_of(workspace: Workspace, item: QueuedRun) -> Path:
    return workspace.state / "queue" / f"{item.id}.toml"


def add(workspace: Workspace, config: Path) -> QueuedRun:
    """Puts a config at the end. Raises UserError where it is wrong or its run is waiting already."""
    asked = reading.read(config)
    item = QueuedRun(
        id=secrets.token_hex(6), name=asked.run.name, source=workspace.relative(config), added=time.time()
    )  # fmt: skip
    write_text(copy_of(workspace, item), reading.to_toml(asked))
    with changed(workspace) as queue:
        if len(queue.items) >= MOST:
            raise UserError(f"the queue has {MOST} trainings already; remove some.")
        same = (i for i in queue.items if i.name == item.name and i.state in ("waiting", "running"))
        if next(same, None) is not None:
            raise UserError(f"run.name: {item.name!r} is in the queue already; give this one another name.")
        queue.items.append(item)
        paused = queue.paused
    if not paused:
        work(workspace)
    return item


def add_texts(workspace: Workspace, texts: Mapping[str, str]) -> list[QueuedRun]:
    """Writes a config for each name and puts it at the end. Raises UserError."""
    paths = {name: workspace.new_config(name) for name in texts}
    if there := [path.name for path in paths.values() if path.exists()]:
        raise UserError(f"{', '.join(there)}: there is such a file already.")
    for name, path in paths.items():
        write_text(path, texts[name])
    forget()
    return [add(workspace, path) for path in paths.values()]


def run_of(workspace: Workspace, item: QueuedRun) -> str:
    """The id that its run has or will have."""
    asked = reading.read(copy_of(workspace, item)).run
    return item.run or workspace.relative(Path(asked.output_dir) / asked.name)


def move(workspace: Workspace, id: str, by: int) -> None:
    """Earlier (by < 0) or later; only among those that wait."""
    with changed(workspace) as queue:
        item = queue.item(id)
        waiting = [i for i in queue.items if i.state == "waiting"]
        if item not in waiting:
            raise UserError(f"{item.name}: is not waiting any more.")
        place = waiting.index(item)
        waiting.insert(max(0, min(len(waiting) - 1, place + by)), waiting.pop(place))
        queue.items = [i for i in queue.items if i.state != "waiting"] + waiting


def remove(workspace: Workspace, id: str) -> None:
    with changed(workspace) as queue:
        item = queue.item(id)
        if item.state == "running":
            raise UserError(f"{item.name}: is training now; stop it on the Train page.")
        queue.items.remove(item)
        copy_of(workspace, item).unlink(missing_ok=True)


def clear(workspace: Workspace) -> None:
    """Forgets what is over."""
    with changed(workspace) as queue:
        for item in queue.items:
            if item.state not in ("waiting", "running"):
                copy_of(workspace, item).unlink(missing_ok=True)
        queue.items = [i for i in queue.items if i.state in ("waiting", "running")]


def pause(workspace: Workspace, paused: bool) -> None:
    with changed(workspace) as queue:
        queue.paused = paused
    if not paused:
        work(workspace)


def working(workspace: Workspace) -> bool:
    """Whether a process is working the queue off."""
    lock = FileLock(workspace.state / "queue-worker.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def work(workspace: Workspace) -> None:
    """Starts the process that works the queue off; a second one ends at once."""
    log = workspace.state / "queue.log"
    processes.spawn(processes.module("ui.work.queue", str(workspace.root)), log, workspace.root)


class Worker:
    """Works the queue off until nothing waits or it is paused. One failure does not stop the rest."""

    def __init__(self, workspace: Workspace, poll: float = POLL, wait: Callable[[float], None] = time.sleep) -> None:
        self.workspace, self._poll, self._wait = workspace, poll, wait

    def run(self) -> None:
        self.workspace.state.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Timeout), FileLock(self.workspace.state / "queue-worker.lock").acquire(timeout=0):
            self._take_up()
            while (item := self._next()) is not None:
                self._train(item)

    def _take_up(self) -> None:
        """What was running when the last worker ended: still running, or to be continued."""
        for item in [i for i in read(self.workspace).items if i.state == "running"]:
            if self._state(item.run) in ("starting", "training", "paused"):
                self._finish(item, item.run)
            elif self._state(item.run) == "ended":
                self._note(item.id, "waiting", resume=True)
            else:
                self._finish(item, item.run)

    def _next(self) -> QueuedRun | None:
        """The first that waits, once nothing else trains; None when the queue is empty or paused."""
        while True:
            queue = read(self.workspace)
            item = next((i for i in queue.items if i.state == "waiting"), None)
            if item is None or queue.paused:
                return None
            if not self._something_trains():
                return item
            self._wait(self._poll)

    def _something_trains(self) -> bool:
        return any(status(self.workspace, n, run).live for n, run in self.workspace.runs().items())

    def _train(self, item: QueuedRun) -> None:
        try:
            run = processes.start(self.workspace, copy_of(self.workspace, item), resume=item.resume)
        except (UserError, OSError) as error:
            self._note(item.id, "failed", message=str(error))
            return
        self._note(item.id, "running", run=run)
        self._finish(item, run)

    def _finish(self, item: QueuedRun, run: str) -> None:
        """Waits for the end of a training and notes how it ended."""
        while (state := self._state(run)) in ("starting", "training", "paused"):
            self._wait(self._poll)
        ends: dict[State, ItemState] = {"finished": "done", "stopped": "stopped"}
        message = "" if state in ends else self._message(run)
        self._note(item.id, ends.get(state, "failed"), message=message)

    def _state(self, run: str) -> State:
        forget()
        found = self.workspace.runs().get(run)
        return status(self.workspace, run, found).state if found is not None else "failed"

    def _message(self, run: str) -> str:
        found = self.workspace.runs().get(run)
        return status(self.workspace, run, found).message if found is not None else "its folder is gone"

    def _note(self, id: str, state: ItemState, *, message: str = "", run: str = "", resume: bool = False) -> None:
        with contextlib.suppress(UserError), changed(self.workspace) as queue:
            item = queue.item(id)
            item.state, item.message = state, message[-2000:]
            item.run, item.resume = run or item.run, resume or item.resume


def main(arguments: list[str]) -> None:
    Worker(Workspace(Path(arguments[0]).resolve())).run()


if __name__ == "__main__":
    main(sys.argv[1:])
