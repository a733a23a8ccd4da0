"""What is done between steps (samples, measurements, saves), and what happens when it cannot be written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from accelerate import Accelerator
from accelerate.utils import gather_object

from trainer.errors import RunError
from trainer.journal.events import Notice, Sink
from trainer.training.control import Control

RETRY = 10.0  # seconds between attempts to write what would be lost otherwise


@dataclass(frozen=True)
class Periodic:
    """Something done between steps, on every process; `act(step)` is told how many steps are finished."""

    act: Callable[[int], None]
    every: int  # 0 = never on the way
    at_start: bool = False
    at_end: bool = False
    name: str = ""  # the word of the control file that asks for it: "save", "sample"
    complete: Callable[[int], None] | None = None  # after a resume: what a stop may have cut short when it was due

    def due(self, step: int) -> bool:
        return bool(self.every) and step % self.every == 0


class Saver(Protocol):
    """Saves the state of the run, perhaps while training goes on; all three raise OSError."""

    def save(self, step: int) -> None: ...

    def check(self) -> None:
        """Raises what went wrong meanwhile; does not wait."""
        ...

    def wait(self) -> None:
        """Until what was saved is on the disk; one that failed is tried again."""
        ...


@dataclass
class BetweenSteps:
    """On the way a disk that is full is told, and the run goes on; at the end it is waited for."""

    accelerator: Accelerator
    saver: Saver
    control: Control
    emit: Sink
    patience: float = 3600.0  # seconds of attempts to write the end of a run before it is given up

    def act(self, step: int, due: Sequence[Periodic]) -> None:
        if due:
            self._attempt(step, due)
            self.accelerator.wait_for_everyone()

    def check(self, step: int) -> None:
        """Tells of a save in the background that failed."""
        self._attempt(step, [Periodic(lambda _: self.saver.check(), 0)])

    def give_up(self) -> None:
        """Before an error ends the run: what is being written is not lost with it."""
        with suppress(OSError):  # told already
            self.saver.wait()

    def finish(self, step: int, due: Sequence[Periodic], *, save: bool) -> None:
        """What is written now would be lost otherwise, so it is tried until there is room or nobody waits for it.

        save: also the state of the run, to go on from.
        """
        state = [Periodic(self.saver.save, 0)] if save else []
        failed = self._attempt_together(step, [*due, *state, Periodic(lambda _: self.saver.wait(), 0)])
        until = time.monotonic() + self.patience
        while failed:
            left = until - time.monotonic()
            if left > 0:
                self.emit(Notice(step, message=f"step {step}: trying again in {RETRY:.0f} s; Ctrl-C gives up."))
            if left <= 0 or self.control.wait(min(RETRY, left)):
                first = next(iter(failed.values()))
                raise RunError(f"{first}, and the run has ended. Make room, then continue with --resume.")
            failed = self._attempt_together(step, list(failed))
        self.accelerator.wait_for_everyone()

    def _attempt(self, step: int, due: Sequence[Periodic]) -> dict[Periodic, str]:
        """Those that could not write, and why."""
        failed = {}
        for one in due:
            try:
                one.act(step)
            except OSError as error:
                where = error.filename or "the run's folder"
                failed[one] = f"step {step}: could not write {where} ({error.strerror or error})"
                self.emit(Notice(step, message=f"{failed[one]}; earlier saves are intact."))
        return failed

    def _attempt_together(self, step: int, due: Sequence[Periodic]) -> dict[Periodic, str]:
        """Those that any of the processes could not write: all of them may be needed to try again."""
        failed = self._attempt(step, due)
        told = {place: failed[one] for place, one in enumerate(due) if one in failed}
        together = {place: text for found in gather_object([told]) for place, text in found.items()}
        return {one: together[place] for place, one in enumerate(due) if place in together}
