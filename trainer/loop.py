"""The order of events of a run: micro-batches, optimizer update, log, samples, saves. No diffusion maths."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainer.adapters.norm_limit import NormLimit
from trainer.batch import Batch
from trainer.device.compilation import Compiled, sample_of
from trainer.device.late import Late
from trainer.ema import Averages
from trainer.errors import RunError
from trainer.events import Notice, Sink, Start, Step, Stop
from trainer.noise import Streams
from trainer.optim.update import Update
from trainer.optimizers import found_step_size
from trainer.parallel.processes import Processes
from trainer.parallel.stream import global_index
from trainer.run.control import Control
from trainer.run.guards import FiniteSteps, StepTimes
from trainer.step import StepResult, TrainingStep


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


@dataclass(frozen=True)
class Pace:
    """How long the run is and how a step is put together."""

    steps: int
    accumulation: int
    batches_per_epoch: int
    log_every: int
    seed: int


class Saver(Protocol):
    """Saves the state of the run, perhaps while training goes on; all three raise OSError."""

    def save(self, step: int) -> None: ...

    def check(self) -> None:
        """Raises what went wrong meanwhile; does not wait."""
        ...

    def wait(self) -> None:
        """Until what was saved is on the disk; one that failed is tried again."""
        ...


RETRY = 10.0  # seconds between attempts to write what would be lost otherwise


@dataclass(frozen=True)
class Launched:
    """A step that the device may still be working on."""

    number: int  # finished steps, with this one
    names: Sequence[str]  # the images
    images: int  # of all processes
    cells: int  # latent values, or pixels, of this process
    rates: dict[str, float]
    d: dict[str, float]  # what Prodigy and its kin found
    numbers: Late  # gradient norm; where it is logged also what `Loop._log` reads
    logged: bool


@dataclass
class Loop:
    """Runs a training from `start` finished steps to the end or to a requested stop."""

    accelerator: Accelerator
    processes: Processes
    network: nn.Module  # wrapped by accelerate
    step: TrainingStep
    batch: Callable[[int], Batch]  # micro-batch by its index in the endless stream that all processes share
    optimizer: Optimizer
    schedule: LRScheduler
    pace: Pace
    emit: Sink
    periodic: Sequence[Periodic]
    saver: Saver
    control: Control
    averages: Averages
    update: Update
    limit: NormLimit | None
    compiled: Compiled | None
    start: Start
    finite: FiniteSteps = field(default_factory=FiniteSteps)
    times: StepTimes = field(default_factory=StepTimes)
    patience: float = 3600.0  # seconds of attempts to write the end of a run before it is given up
    _launched: Launched | None = None
    _untold: list[str] = field(default_factory=list)
    _since: float = 0.0  # when the step that is measured began
    _spent: float = 0.0  # seconds in steps since the last log
    _cells: int = 0  # latent values, or pixels, in them
    _images: int = 0

    def run(self) -> str:
        """Returns "done" or "stopped"."""
        began = time.monotonic()
        self.emit(self.start)
        self.network.train()
        try:
            finished = self._steps()
            done = finished >= self.pace.steps or self.control.ended
            state = Periodic(self.saver.save, 0)
            self._end(finished, [p for p in self.periodic if p.at_end] if done else [state])
        except Exception:
            with suppress(OSError):  # told already; what is being written is not lost with the run
                self.saver.wait()
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
        self.settle()
        return finished

    def take_step(self, finished: int) -> None:
        """The step after `finished` ones: forward, backward, update.

        What the step before it gave is read in between, when the device has this one to work on: the host never waits
        for a device that waits for the host.
        """
        if self._launched is None:
            self._since = time.monotonic()
        results = self.gradients_or_eager(finished)
        while self._untold:
            self.emit(Notice(finished, message=self._untold.pop(0)))
        self.settle()
        norm = self._update()
        shrunk = None if self.limit is None else self.limit()
        self.averages.update(finished + 1)
        self._launched = self._launch(finished + 1, results, norm, shrunk)
        self._attempt(finished + 1, [Periodic(lambda _: self.saver.check(), 0)])

    def gradients_or_eager(self, finished: int) -> list[StepResult]:
        """The gradients; without compiled blocks where the compiler fails or errs, which is told once."""
        if self.compiled is None:
            return self.gradients(finished)
        try:
            results = self.gradients(finished)
            told = self._doubt(finished, self.compiled)
        except Exception as error:
            told = self.compiled.give_up(error)
            if not told or self.update.in_backward:  # some weights may have been updated already
                raise
        if not told:
            return results
        self._untold.append(told)  # a trial step has no log to write to yet
        self.optimizer.zero_grad()
        return self.gradients(finished)

    def _doubt(self, finished: int, compiled: Compiled) -> str:
        """Compares the gradients with eager ones when a size is met for the first time, and leaves them as they are.

        A single process can: several exchange gradients, and their sizes are new at different steps.
        """
        sizes, alone = tuple(self._sizes), self.accelerator.num_processes == 1
        if self.update.in_backward or not alone or not compiled.is_new(sizes):
            return ""
        found = sample_of(self._parameters())
        self.optimizer.zero_grad()
        with compiled.paused():
            self.gradients(finished)
        told = compiled.doubt(found, sample_of(self._parameters()), sizes)
        if not told:
            self.optimizer.zero_grad()
            self.gradients(finished)
        return told

    def gradients(self, finished: int) -> list[StepResult]:
        """Forward and backward of the step after `finished` ones; with its last micro-batch gradients are exchanged."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        results = []
        self._names: list[str] = []
        self._batch_cells = 0
        self._sizes: list[str] = []
        for micro in range(self.pace.accumulation):
            index = global_index(finished, micro, self.pace.accumulation, rank, ranks)
            batch = self.batch(index).to(self.accelerator.device)
            self._names += batch.names
            self._sizes += ["x".join(map(str, t.shape)) for t in (batch.latents, batch.pixels) if t is not None]
            self._batch_cells += sum(t.numel() for t in (batch.latents, batch.pixels) if t is not None)
            streams = Streams(self.pace.seed, finished, micro, rank, self.accelerator.device)
            streams.seed_networks()
            last = micro == self.pace.accumulation - 1
            with nullcontext() if last else self.processes.accumulating():
                result = self.step(batch, streams)
                self.processes.backward(result.loss, last=last)
            results.append(result)
        return results

    def _update(self) -> Tensor:
        """Takes the step, if its gradients are finite. Returns their norm before clipping."""
        norm = self.update.take()
        self.optimizer.zero_grad()
        self.schedule.step()
        return norm

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _launch(self, number: int, results: Sequence[StepResult], norm: Tensor, shrunk: Tensor | None) -> Launched:
        """Sends the step's numbers on their way."""
        numbers, logged = [norm.detach().float().reshape(1)], self._logs(number)
        if logged:
            losses = torch.cat([r.per_sample for r in results]).float()
            loss = torch.stack([r.per_sample.mean() for r in results]).mean()
            mean = self.accelerator.reduce(loss, "mean").float().reshape(1)
            count = mean.new_full((1,), -1) if shrunk is None else shrunk.float().reshape(1)
            numbers += [mean, count, losses, torch.cat([r.timesteps for r in results]).float()]
        groups = self.optimizer.param_groups
        return Launched(
            number,
            names=self._names,
            images=sum(len(r.per_sample) for r in results) * self.accelerator.num_processes,
            cells=self._batch_cells,
            rates={_name(g, i): float(g["lr"]) for i, g in enumerate(groups)} if logged else {},
            d=_found(groups) if logged else {},
            numbers=Late(torch.cat(numbers)),
            logged=logged,
        )

    def settle(self) -> None:
        """Reads what the last step gave: whether it was taken, and what is logged of it."""
        if self._launched is None:
            return
        step, self._launched = self._launched, None
        (norm, *logged), done = step.numbers.read()
        self._spent += done - self._since
        self._since = done
        self._cells += step.cells
        self._images += step.images
        self._judge(step, math.isfinite(norm))
        if step.logged:
            self._log(step, norm, logged)

    def _judge(self, step: Launched, finite: bool) -> None:
        self.update.settle(finite)
        if finite:
            self.finite.passed()
        elif self.accelerator.scaler is not None:
            self.finite.overflowed(step.number, step.names)
        else:
            self.emit(Notice(step.number, message=self.finite.failed(step.number, step.names)))

    def _log(self, step: Launched, norm: float, numbers: Sequence[float]) -> None:
        """numbers: mean loss, shrunk adapters or -1, the losses of the samples, their timesteps."""
        loss, shrunk, *samples = numbers
        half = len(samples) // 2
        batches = step.number * self.pace.accumulation * self.accelerator.num_processes
        self.emit(
            Step(
                step.number,
                loss=loss,
                lr=step.rates,
                grad_norm=norm,
                images_per_second=self._images / max(self._spent, 1e-9),
                epoch=batches / self.pace.batches_per_epoch,
                loss_by_timestep=by_timestep(samples[half:], samples[:half]),
                d=step.d,
                shrunk=int(shrunk) if shrunk >= 0 else None,
                memory=torch.cuda.max_memory_allocated() if self.accelerator.device.type == "cuda" else None,
            )
        )
        line = self.times.add(step.number, self._spent, self._cells)
        self._spent, self._cells, self._images = 0.0, 0, 0
        if line:
            self.emit(Notice(step.number, message=line))

    def _logs(self, finished: int) -> bool:
        return finished % self.pace.log_every == 0 or finished == self.pace.steps

    def _act(self, step: int, due: Sequence[Periodic]) -> None:
        """A disk that is full on the way is told, and the run goes on."""
        if due:
            self.settle()
            self._attempt(step, due)
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

    def _end(self, step: int, due: Sequence[Periodic]) -> None:
        """What is written now would be lost otherwise, so it is tried until there is room or nobody waits for it."""
        failed = self._attempt_together(step, [*due, Periodic(lambda _: self.saver.wait(), 0)])
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

    def _attempt_together(self, step: int, due: Sequence[Periodic]) -> dict[Periodic, str]:
        """Those that any of the processes could not write: all of them may be needed to try again."""
        failed = self._attempt(step, due)
        told = {place: failed[one] for place, one in enumerate(due) if one in failed}
        together = {place: text for found in gather_object([told]) for place, text in found.items()}
        return {one: together[place] for place, one in enumerate(due) if place in together}

    def _stopped(self, finished: int) -> bool:
        """Answers what was asked of the run since the last step; a stop ends all processes at the same step."""
        if self.accelerator.num_processes > 1:
            # Asking the others waits for the device, so it is done where the log waits anyway.
            return self._logs(finished) and self._anyone_stopped()
        asked = self.control.take()
        while asked or self.control.paused:
            self.settle()
            self._act(finished, [p for p in self.periodic if p.name in asked])
            asked = self.control.wait_while_paused()
        return self.control.stop_requested

    def _anyone_stopped(self) -> bool:
        if self.accelerator.is_main_process:
            self.control.take()
        asked = torch.tensor(float(self.control.stop_requested), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum").item() > 0)


def _name(group: dict[str, Any], index: int) -> str:
    return str(group.get("name", index))


def _found(groups: Sequence[dict[str, Any]]) -> dict[str, float]:
    sizes = {_name(group, i): found_step_size(group) for i, group in enumerate(groups)}
    return {name: size for name, size in sizes.items() if size is not None}


def by_timestep(timesteps: Sequence[float], losses: Sequence[float], width: int = 250) -> dict[str, float]:
    """The mean loss in each bin of timesteps that was drawn, on this process."""
    bins: dict[int, list[float]] = {}
    for timestep, loss in zip(timesteps, losses, strict=True):
        bins.setdefault(int(timestep) // width, []).append(loss)
    return {f"{b * width}-{(b + 1) * width - 1}": sum(found) / len(found) for b, found in sorted(bins.items())}
