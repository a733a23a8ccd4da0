"""What is told of a step: its numbers leave the device behind the next one, are judged, and logged."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer

from trainer.device.late import Late
from trainer.journal.events import Notice, Sink, Step
from trainer.optim.optimizers import found_step_size
from trainer.optim.update import Update
from trainer.training.gradients import Passes
from trainer.training.guards import FiniteSteps, StepTimes
from trainer.training.pace import Pace
from trainer.training.step import refuse_unsound
from trainer.training.step_end import Ended

BINS = 4  # of timesteps, in which losses are told


@dataclass(frozen=True)
class Launched:
    """A step that the device may still be working on."""

    number: int  # finished steps, with this one
    names: Sequence[str]  # the images
    images: int  # of all processes
    cells: int  # latent values, or pixels, of this process
    rates: dict[str, float]
    d: dict[str, float]  # what Prodigy and its kin found
    numbers: Late  # gradient norm; whether images are `Passes.sound`; where it is logged what `StepLog._log` reads
    encoded: int  # images in the step itself
    logged: bool


@dataclass
class Spent:
    """Since the last log."""

    seconds: float = 0.0
    cells: int = 0
    images: int = 0


@dataclass
class StepLog:
    """`begin`, `launch` and `settle` are called in turns; `settle` may be called at any time."""

    accelerator: Accelerator
    pace: Pace
    optimizer: Optimizer
    update: Update
    emit: Sink
    timesteps: int  # of the noise schedule
    finite: FiniteSteps = field(default_factory=FiniteSteps)
    times: StepTimes = field(default_factory=StepTimes)
    finished: int = 0  # steps that were launched, with those before this run
    _launched: Launched | None = None
    _since: float = 0.0  # when the step that is measured began
    _spent: Spent = field(default_factory=Spent)

    def begin(self) -> None:
        """Before a step: time counts from here where no step is under way."""
        if self._launched is None:
            self._since = time.monotonic()

    def launch(self, number: int, passes: Passes, ended: Ended) -> None:
        """Sends the numbers of a step on their way."""
        sound, logged = [flags.float() for flags in passes.sound], self.pace.logs(number)
        numbers = [ended.norm.float().reshape(1), *sound]
        if logged:
            numbers += self._numbers(passes, ended)
        groups = self.optimizer.param_groups
        self.finished = number
        self._launched = Launched(
            number,
            names=passes.names,
            images=sum(len(r.per_sample) for r in passes.results) * self.accelerator.num_processes,
            cells=passes.cells,
            rates={_name(g, i): rate for i, (g, rate) in enumerate(zip(groups, ended.rates, strict=True))},
            d=_found(groups) if logged else {},
            numbers=Late(torch.cat(numbers)),
            encoded=sum(map(len, sound)),
            logged=logged,
        )

    def _numbers(self, passes: Passes, ended: Ended) -> list[Tensor]:
        """Mean loss, shrunk adapters or -1, what is held to the base or -1, the samples' losses, their timesteps."""
        losses = torch.cat([r.per_sample for r in passes.results]).float()
        mean = self._mean([r.per_sample for r in passes.results])
        none = mean.new_full((1,), -1)
        count = none if ended.shrunk is None else ended.shrunk.float().reshape(1)
        held = [r.kept for r in passes.results if r.kept is not None]
        return [
            mean,
            count,
            self._mean(held) if held else none,
            losses,
            torch.cat([r.timesteps for r in passes.results]).float(),
        ]

    def _mean(self, samples: Sequence[Tensor]) -> Tensor:
        """(1,) float32: of all micro-batches and processes."""
        return self.accelerator.reduce(torch.stack([s.mean() for s in samples]).mean(), "mean").float().reshape(1)

    def settle(self) -> None:
        """Reads what the last step gave: whether it was taken, and what is logged of it. Raises UserError for images
        that the VAE cannot encode."""
        if self._launched is None:
            return
        step, self._launched = self._launched, None
        (norm, *numbers), done = step.numbers.read()
        sound, logged = numbers[: step.encoded], numbers[step.encoded :]
        if sound:
            refuse_unsound(step.names, [flag > 0 for flag in sound])
        self._spent.seconds += done - self._since
        self._since = done
        self._spent.cells += step.cells
        self._spent.images += step.images
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
        """numbers: as `_numbers` has them."""
        loss, shrunk, kept, *samples = numbers
        half = len(samples) // 2
        batches = step.number * self.pace.accumulation * self.accelerator.num_processes
        spent, self._spent = self._spent, Spent()
        self.emit(
            Step(
                step.number,
                loss=loss,
                lr=step.rates,
                grad_norm=norm,
                images_per_second=spent.images / max(spent.seconds, 1e-9),
                epoch=batches / self.pace.batches_per_epoch,
                loss_by_timestep=by_timestep(samples[half:], samples[:half], self.timesteps),
                d=step.d,
                shrunk=int(shrunk) if shrunk >= 0 else None,
                preservation=kept if kept >= 0 else None,
                memory=torch.cuda.max_memory_allocated() if self.accelerator.device.type == "cuda" else None,
            )
        )
        if line := self.times.add(step.number, spent.seconds, spent.cells):
            self.emit(Notice(step.number, message=line))


def _name(group: dict[str, Any], index: int) -> str:
    return str(group.get("name", index))


def _found(groups: Sequence[dict[str, Any]]) -> dict[str, float]:
    sizes = {_name(group, i): found_step_size(group) for i, group in enumerate(groups)}
    return {name: size for name, size in sizes.items() if size is not None}


def by_timestep(timesteps: Sequence[float], losses: Sequence[float], steps: int) -> dict[str, float]:
    """The mean loss in each quarter of the schedule that was drawn, on this process."""
    width = max(1, steps // BINS)
    bins: dict[int, list[float]] = {}
    for timestep, loss in zip(timesteps, losses, strict=True):
        bins.setdefault(min(int(timestep) // width, BINS - 1), []).append(loss)
    return {f"{b * width}-{(b + 1) * width - 1}": sum(found) / len(found) for b, found in sorted(bins.items())}
