"""The order of events of a run: steps, what is done between them, stops. No diffusion maths."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from trainer.journal.events import Notice, Sink, Start, Stop
from trainer.training.between_steps import BetweenSteps, Periodic
from trainer.training.control import Control
from trainer.training.gradients import Gradients
from trainer.training.pace import Pace
from trainer.training.step_end import StepEnd
from trainer.training.step_log import StepLog


@dataclass(frozen=True)
class Loop:
    """Runs a training from `start` finished steps to the end or to a requested stop."""

    accelerator: Accelerator
    network: nn.Module  # wrapped by accelerate
    pace: Pace
    gradients: Gradients
    end: StepEnd
    log: StepLog
    between: BetweenSteps
    periodic: Sequence[Periodic]
    control: Control
    emit: Sink
    start: Start

    def run(self) -> str:
        """Returns "done" or "stopped"."""
        began = time.monotonic()
        self.emit(self.start)
        self.network.train()
        try:
            finished = self._steps()
            done = finished >= self.pace.steps or self.control.ended
            self.between.finish(finished, [p for p in self.periodic if done and p.at_end], save=not done)
        except Exception:
            self.between.give_up()
            raise
        reason = "done" if done else "stopped"
        self.emit(Stop(finished, reason=reason, seconds=time.monotonic() - began))
        return reason

    def _steps(self) -> int:
        """Trains to the end or to a stop; returns how many steps are finished."""
        finished = self.start.step
        if finished == 0:
            self._act(0, [p for p in self.periodic if p.at_start])
        else:
            self._act(finished, [Periodic(p.complete, 0) for p in self.periodic if p.complete and p.due(finished)])
        while finished < self.pace.steps and not self.control.ended and not self._stopped(finished):
            self.take_step(finished)
            finished += 1
            if finished < self.pace.steps:
                self._act(finished, [p for p in self.periodic if p.due(finished)])
        self.log.settle()
        return finished

    def take_step(self, finished: int) -> None:
        """The step after `finished` ones: forward, backward, update.

        What the step before it gave is read in between, when the device has this one to work on: the host never waits
        for a device that waits for the host.
        """
        self.log.begin()
        passes = self.gradients.take(finished)
        while self.gradients.untold:
            self.emit(Notice(finished, message=self.gradients.untold.pop(0)))
        self.log.settle()
        self.log.launch(finished + 1, passes, self.end.take(finished + 1))
        self.between.check(finished + 1)

    def _act(self, step: int, due: Sequence[Periodic]) -> None:
        if due:
            self.log.settle()
            self.between.act(step, due)

    def _stopped(self, finished: int) -> bool:
        """Answers what was asked of the run since the last step; a stop ends all processes at the same step."""
        if self.accelerator.num_processes > 1:
            # Asking the others waits for the device, so it is done where the log waits anyway.
            return self.pace.logs(finished) and self._anyone_stopped()
        asked = self.control.take()
        while asked or self.control.paused:
            self.log.settle()
            self._act(finished, [p for p in self.periodic if p.name in asked])
            asked = self.control.wait_while_paused()
        return self.control.stop_requested

    def _anyone_stopped(self) -> bool:
        if self.accelerator.is_main_process:
            self.control.take()
        asked = torch.tensor(float(self.control.stop_requested), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum").item() > 0)
