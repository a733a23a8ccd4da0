"""Measures a run while it trains: writes what was found, keeps the best state, tells the result, may end the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from trainer.journal.events import Event, Notice, Sink, Validated
from trainer.journal.run_dir import RunDir
from trainer.protocols import Family, Objective
from trainer.reports.learning.findings import Checkpoint, Learning, learning, percent
from trainer.samples.drawing import free_memory
from trainer.validation import fixed_loss, measurements
from trainer.validation.measurements import Answers, Losses, Measurements
from trainer.validation.questions import ValidationSet

Without = Callable[[], AbstractContextManager[None]]  # inside it, the model is the untouched base


@dataclass
class Validator:
    """Called on every process; each measures a share, all know the result, the main one writes."""

    questions: ValidationSet
    family: Family
    objective: Objective
    accelerator: Accelerator
    run_dir: RunDir
    save_best: Callable[[int], object] | None  # saves the result after so many steps; None = it is not kept
    report: Callable[[Learning], None]  # writes what was learned so far, for people
    emit: Sink
    without: Without | None  # None: what trains is the base itself, which can be measured before step 1 only
    patience: int  # measurements without a new best after which the run ends; 0 = never
    start: int  # the step after which the run goes on
    stopped: Callable[[], bool] = lambda: False  # ends a measurement; asked of a single process only
    found: Measurements = field(init=False)
    _begun: bool = False

    def __post_init__(self) -> None:
        self.found = measurements.known(self.run_dir.validation, self.questions.questions, self.start)

    @property
    def best(self) -> int | None:
        """The step of the lowest held-out loss so far."""
        told = learning(self.found)
        return None if told is None else told.best

    @property
    def worth_keeping(self) -> set[int]:
        """The steps whose checkpoints are not to be forgotten."""
        return set() if self.best is None else {self.best}

    @property
    def exhausted(self) -> bool:
        """Whether it is time to end the run: `patience` measurements without a new best."""
        steps, best = [c.step for c in self.found.checkpoints], self.best
        return self.patience > 0 and best is not None and len(steps) - 1 - steps.index(best) >= self.patience

    def measure(self, step: int) -> None:
        """The base, where that is still open and possible; then the state after `step` steps, unless that is done."""
        began = time.monotonic()
        if self.found.base is None and (self.without is not None or step == 0):
            with nullcontext() if self.without is None else self.without():
                self._take(None, step)
        if step and not any(c.step == step for c in self.found.checkpoints) and self._take(step, step):
            self._tell(step, time.monotonic() - began)

    def conclude(self, step: int) -> None:
        """The verdict, at the end of a run."""
        told = learning(self.found)
        if told is not None:
            self.emit(Notice(step, message=f"{told.verdict} ({self.run_dir.learning_page.name})"))

    def _take(self, named: int | None, step: int) -> bool:
        """Measures what the model is now and records it as the state of step `named`, None = the base. Returns whether
        that was possible."""
        try:
            losses = self._losses()
        except fixed_loss.InterruptedMeasuringError:
            return False  # it is taken anew when the run goes on
        if losses is None or not np.isfinite(losses).all():
            problem = "the memory ran out while measuring" if losses is None else "the held-out loss is NaN or infinite"
            self.emit(Notice(step, message=f"step {step}: {problem}; nothing was recorded and training goes on"))
            return False
        answers = Answers(named, losses)
        if self.accelerator.is_main_process:
            if not self._begun:
                measurements.begin(self.run_dir.validation, self.found)
                self._begun = True
            measurements.write(self.run_dir.validation, answers)
        if answers.step is None:
            self.found = replace(self.found, base=answers)
        else:
            self.found = replace(self.found, checkpoints=(*self.found.checkpoints, answers))
        return True

    def _losses(self) -> Losses | None:
        """(N, D), put together from all processes; None when the memory of one was too small."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        share: Losses | None = None
        with suppress(torch.OutOfMemoryError), self.accelerator.autocast():
            share = fixed_loss.measure(
                self.family,
                self.objective,
                self.questions.questions,
                self.questions.asked[rank::ranks],
                self.accelerator.device,
                # Several have to end together, which they do after the step.
                *([self.stopped] if ranks == 1 else []),
            )
        if share is None:
            free_memory()
        shares = gather_object([share])
        if any(one is None for one in shares):
            return None
        total: Losses = np.sum(shares, axis=0)
        return total

    def _tell(self, step: int, seconds: float) -> None:
        told = learning(self.found)
        assert told is not None
        if self.save_best is not None and told.best == step:
            self.save_best(step)
        if not self.accelerator.is_main_process:
            return
        self.report(told)
        self.emit(event_of(told, step, seconds))


def event_of(told: Learning, step: int, seconds: float) -> Event:
    at = told.at(step)
    return Validated(
        step,
        loss=at.loss,
        training_loss=at.training_loss,
        base_loss=told.base_loss,
        base_training_loss=told.base_training_loss,
        better=_as_list(at),
        best=told.best,
        bins=[{"low": b.low, "high": b.high, "loss": b.loss} for b in at.bins],
        seconds=seconds,
        message=_line(told, at),
    )


def _as_list(at: Checkpoint) -> list[float | None] | None:
    found = at.improvement
    return None if found is None else [found.mean, found.low, found.high]


def _line(told: Learning, at: Checkpoint) -> str:
    change = "" if at.improvement is None else f", better than the base by {percent(at.improvement)}"
    if at.improvement is not None and at.improvement.mean < 0:
        change = f", against the base {percent(at.improvement, signed=True)}"
    mark = ", the best so far" if told.best == at.step else f", best was step {told.best}"
    return f"held-out loss {at.loss:.4f}{change}{mark}"
