"""Runs functions in forked processes, which start in milliseconds because everything heavy is imported already."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from torch import distributed


@dataclass(frozen=True)
class Outcome:
    """How a forked process ended: by a signal, or with the value or error of its function."""

    signal: int = 0
    value: Any = None
    error: str = ""

    def returned(self) -> Any:
        assert not self.signal, signal.Signals(self.signal).name
        assert not self.error, self.error
        return self.value


def forked(function: Callable[[], Any]) -> Outcome:
    return start(function).wait()


@dataclass(frozen=True)
class Child:
    pid: int
    answer: Path

    def wait(self) -> Outcome:
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(status):
            self.answer.unlink()
            return Outcome(signal=os.WTERMSIG(status))
        content = self.answer.read_bytes()
        self.answer.unlink()
        assert content, "the process ended without an answer"
        outcome: Outcome = pickle.loads(content)
        return outcome


def start(function: Callable[[], Any]) -> Child:
    handle, name = tempfile.mkstemp(prefix="answer-")
    os.close(handle)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, Path(name))
    try:
        try:
            outcome = Outcome(value=function())
        except BaseException:
            outcome = Outcome(error=traceback.format_exc())
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        with open(name, "wb", buffering=0) as file:  # noqa: PTH123 (Path.open is what fault injection replaces)
            file.write(pickle.dumps(outcome))
    finally:
        os._exit(0)


def ranks(count: int, function: Callable[[], Any]) -> list[Any]:
    """The results of `function` in `count` processes that train together, over gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def as_rank(rank: int) -> Any:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
        }
        AcceleratorState._reset_state()
        PartialState._reset_state()
        value = function()
        if distributed.is_initialized():
            distributed.barrier()  # one that is gone resets what the other still reads
        return value

    children = [start(lambda rank=rank: as_rank(rank)) for rank in range(count)]  # type: ignore[misc]
    outcomes = [child.wait() for child in children]
    errors = [outcome.error for outcome in outcomes if outcome.error]
    assert not errors, "\n\n".join(errors)  # of all: one that ends early takes the others with it
    return [outcome.returned() for outcome in outcomes]
