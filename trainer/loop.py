"""The order of events of a run: micro-batches, optimizer update, log, samples, saves. No diffusion maths."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainer.batch import Batch
from trainer.control import Control
from trainer.errors import RunError
from trainer.events import Sink, Start, Step, Stop
from trainer.noise import Streams
from trainer.step import StepResult, TrainingStep


@dataclass(frozen=True)
class Periodic:
    """Something done between steps, on every process; `act(step)` is told how many steps are finished."""

    act: Callable[[int], None]
    every: int  # 0 = never on the way
    at_start: bool = False
    at_end: bool = False

    def due(self, step: int) -> bool:
        return bool(self.every) and step % self.every == 0


@dataclass(frozen=True)
class Pace:
    """How long the run is and how a step is put together."""

    steps: int
    accumulation: int
    batches_per_epoch: int
    max_grad_norm: float
    log_every: int
    seed: int


@dataclass
class Loop:
    """Runs a training from `start` finished steps to the end or to a requested stop."""

    accelerator: Accelerator
    network: nn.Module  # wrapped by accelerate
    step: TrainingStep
    batch: Callable[[int], Batch]  # micro-batch by its index in the endless stream that all processes share
    optimizer: Optimizer
    schedule: LRScheduler
    pace: Pace
    emit: Sink
    periodic: Sequence[Periodic]
    save_state: Callable[[int], None]  # a checkpoint, when a stop was asked for
    control: Control
    start: Start

    def run(self) -> str:
        """Returns "done" or "stopped"."""
        began = time.monotonic()
        self.emit(self.start)
        finished = self.start.step
        self.network.train()
        if finished == 0:
            self._act(0, [p for p in self.periodic if p.at_start])
        while finished < self.pace.steps and not self._must_stop():
            started = time.monotonic()
            results = self._micro_batches(finished)
            norm = self._update(results, finished)
            finished += 1
            if finished % self.pace.log_every == 0 or finished == self.pace.steps:
                self._log(finished, results, norm, time.monotonic() - started)
            if finished < self.pace.steps:
                self._act(finished, [p for p in self.periodic if p.due(finished)])
        reason = "done" if finished >= self.pace.steps else "stopped"
        if reason == "done":
            self._act(finished, [p for p in self.periodic if p.at_end])
        else:
            self.save_state(finished)
        self.emit(Stop(finished, reason=reason, seconds=time.monotonic() - began))
        return reason

    def _micro_batches(self, finished: int) -> list[StepResult]:
        """Forward and backward of one step's micro-batches; gradients are exchanged with the last one."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        results = []
        for micro in range(self.pace.accumulation):
            index = (finished * self.pace.accumulation + micro) * ranks + rank
            batch = self.batch(index).to(self.accelerator.device)
            streams = Streams(self.pace.seed, finished, micro, rank, self.accelerator.device)
            last = micro == self.pace.accumulation - 1
            with nullcontext() if last else self.accelerator.no_sync(self.network):
                result = self.step(batch, streams)
                self.accelerator.backward(result.loss)
            results.append(result)
        return results

    def _update(self, results: Sequence[StepResult], finished: int) -> Tensor | None:
        norm = None
        if self.pace.max_grad_norm:
            norm = self.accelerator.clip_grad_norm_(self._parameters(), self.pace.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:  # float16: the scaler met an overflow
            self.schedule.step()
        return norm

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _log(self, finished: int, results: Sequence[StepResult], norm: Tensor | None, seconds: float) -> None:
        """The only place of a step that waits for the device."""
        loss = torch.stack([r.per_sample.mean() for r in results]).mean()
        value = float(self.accelerator.reduce(loss, "mean"))
        if value != value:
            raise RunError(
                f"the loss became NaN at step {finished}. Nothing was saved after it. Lower optimizer.lr, or train "
                "with training.precision = 'bf16' or 'fp32'."
            )
        images = sum(len(r.per_sample) for r in results) * self.accelerator.num_processes
        batches = finished * self.pace.accumulation * self.accelerator.num_processes
        self.emit(
            Step(
                finished,
                loss=value,
                lr={str(g.get("name", i)): float(g["lr"]) for i, g in enumerate(self.optimizer.param_groups)},
                grad_norm=None if norm is None else float(norm),
                images_per_second=images / max(seconds, 1e-9),
                epoch=batches / self.pace.batches_per_epoch,
            )
        )

    def _act(self, step: int, due: Sequence[Periodic]) -> None:
        for one in due:
            one.act(step)
        if due:
            self.accelerator.wait_for_everyone()

    def _must_stop(self) -> bool:
        """A stop asked of any process stops all of them, at the same step."""
        if self.accelerator.num_processes == 1:
            return self.control.stop_requested
        asked = torch.tensor(float(self.control.stop_requested), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum").item() > 0)
