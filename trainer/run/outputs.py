"""What a run does between its steps: draws samples, measures, saves results and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from trainer.adapters.lora_file import NothingLearnedError
from trainer.config.intervals import Interval
from trainer.device.placement import VAE, Placement
from trainer.errors import UserError
from trainer.journal.events import Notice, ResultSaved, SampleDrawn, Sink
from trainer.journal.run_dir import RunDir
from trainer.run.results import SharedResult
from trainer.run.resume import Keeper
from trainer.run.validator import Validator
from trainer.samples import contact_sheet, drawing
from trainer.samples.prompts import Request
from trainer.training.between_steps import Periodic
from trainer.training.control import Control
from trainer.training.pace import Pace

ASKED = "asked"  # begins the names of pictures whose prompt was typed during the run
MEASUREMENTS = 10  # of a run whose config does not say how often


def _never(step: int) -> bool:
    return False


@dataclass(frozen=True)
class Recurring(Periodic):
    """Due when `when(step)` says so."""

    when: Callable[[int], bool] = field(default=_never, kw_only=True)

    def due(self, step: int) -> bool:
        return self.when(step)


def schedule(every: int | str, pace: Pace, accelerator: Accelerator) -> Callable[[int], bool]:
    """Whether something is due after a step: the same answer on every process."""
    interval = Interval.parse(every)
    if interval.seconds:
        return _Timer(interval.seconds, pace.log_every, accelerator)
    steps_per_epoch = pace.batches_per_epoch / (pace.accumulation * accelerator.num_processes)
    return lambda step: interval.after_step(step, steps_per_epoch)


class _Timer:
    """The main process's clock decides; others are asked where the log waits for the device anyway."""

    def __init__(self, seconds: float, log_every: int, accelerator: Accelerator) -> None:
        self._seconds, self._log_every, self._accelerator = seconds, log_every, accelerator
        self._last = time.monotonic()

    def __call__(self, step: int) -> bool:
        due = time.monotonic() - self._last >= self._seconds
        if self._accelerator.num_processes > 1:
            if step % self._log_every:
                return False
            mine = torch.tensor(float(due and self._accelerator.is_main_process), device=self._accelerator.device)
            due = bool(self._accelerator.reduce(mine, "sum").item() > 0)
        if due:
            self._last = time.monotonic()
        return due


@dataclass(frozen=True)
class SampleDrawer:
    """Draws what the config asks for, on the main process. What goes wrong with one picture is told, not raised."""

    wanted: Sequence[Request]
    run_dir: RunDir
    placement: Placement
    emit: Sink
    accelerator: Accelerator
    control: Control
    parsed: Callable[[str], Request]  # the picture that a line asks for; raises UserError
    file: Path | None = None  # of the one picture that was asked for, outside the samples of the config

    def periodic(self, when: Callable[[int], bool], *, at_start: bool) -> Periodic:
        on = bool(self.wanted)
        return Recurring(
            self.act,
            0,
            at_start=on and at_start,
            at_end=on,
            name="sample",
            complete=self.complete,
            when=when if on else _never,
        )

    def act(self, step: int) -> None:
        if prompt := self.control.prompt:
            self.control.prompt = ""
            self._draw_asked(step, prompt)
        elif self.wanted:
            self._draw_all(step, range(len(self.wanted)))
        else:
            self.emit(Notice(step, message=f"step {step}: samples.prompts is empty, so there is nothing to draw."))

    def _draw_asked(self, step: int, prompt: str) -> None:
        """What somebody typed while the run goes on; a prompt that cannot be drawn is told and forgotten."""
        if not self.placement.has(*self.placement.family.parts, VAE):
            why = "the text encoders and the VAE were given back, since samples.prompts is empty"
            self.emit(Notice(step, message=f"step {step}: {prompt!r} is not drawn: {why}."))
            return
        try:
            request = self.parsed(prompt)
        except UserError as error:
            self.emit(Notice(step, message=f"step {step}: {error}"))
            return
        replace(self, wanted=[request], file=self._next_asked())._draw_all(step, [0])

    def _next_asked(self) -> Path:
        """A file of its own: a resumed run draws its samples again as if nobody had asked."""
        folder = self.run_dir.samples
        number = max((int(p.stem.rpartition("-")[2]) for p in folder.glob(f"{ASKED}-[0-9]*.png")), default=-1) + 1
        return folder / f"{ASKED}-{number:03d}.png"

    def complete(self, step: int) -> None:
        """Draws the pictures of a step that are not there yet."""
        self._draw_all(step, [i for i in range(len(self.wanted)) if not self.run_dir.sample(step, i).exists()])

    def _draw_all(self, step: int, indices: Sequence[int]) -> None:
        if not indices or not self.accelerator.is_main_process:
            return
        drawn: dict[int, Path] = {}
        try:
            with self.placement.used(*self.placement.family.parts, VAE):
                for places in drawing.groups([self.wanted[i] for i in indices]):
                    if self.control.stops():
                        break
                    drawn |= self._draw(step, [indices[place] for place in places])
        except torch.OutOfMemoryError:
            what = "bringing the text encoders and the VAE to the device for samples; they were left out"
            self.emit(Notice(step, message=f"step {step}: the memory ran out while {what} and training goes on."))
        if drawn:
            names = [drawn[i].relative_to(self.run_dir.path).as_posix() for i in sorted(drawn)]
            self.emit(SampleDrawn(step, files=names, prompts=[self.wanted[i].prompt for i in sorted(drawn)]))
        for index in drawn if self.file is None else ():
            contact_sheet.write(self.run_dir.samples, index, self.wanted[index].prompt, self.run_dir.sheet(index))

    def _draw(self, step: int, members: Sequence[int]) -> dict[int, Path]:
        """The files of those requests that could be drawn, by index."""
        pictures = []
        try:
            with self.accelerator.autocast():
                pictures = drawing.draw(self.placement.family, [self.wanted[i] for i in members], self.control.stops)
        except drawing.InterruptedDrawingError:
            return {}
        except torch.OutOfMemoryError:
            self.emit(Notice(step, message=self._too_large(step, members)))
        if not pictures:
            drawing.free_memory()  # outside the handler: the exception holds the tensors that filled the memory
        files = {index: self.file or self.run_dir.sample(step, index) for index in members}
        for index, picture in zip(members, pictures, strict=False):
            drawing.save(picture, files[index])
        return files if pictures else {}

    def _too_large(self, step: int, members: Sequence[int]) -> str:
        first = self.wanted[members[0]]
        which = ", ".join(str(index) for index in members)
        return (
            f"step {step}: the memory ran out while drawing sample {which} ({first.width}x{first.height}); it was left "
            "out and training goes on. A smaller samples.width and samples.height needs less."
        )


def validations(validator: Validator, every: int | str, pace: Pace, keeper: Keeper, control: Control) -> list[Periodic]:
    """The measurements, and the verdict at the end. The checkpoint of the best state is kept."""

    def act(step: int) -> None:
        validator.measure(step)
        keeper.keep = validator.worth_keeping
        if validator.exhausted and step < pace.steps:
            control.ended = True
            best = f"no better than at step {validator.best} in {validator.patience} measurements"
            validator.emit(Notice(step, message=f"step {step}: {best}; the run ends here (validation.early_stop)"))

    keeper.keep = validator.worth_keeping
    usual = math.ceil(pace.steps / MEASUREMENTS)
    when = schedule(every or usual, pace, validator.accelerator)
    return [
        Recurring(act, 0, at_start=True, at_end=True, complete=act, when=when),
        Periodic(validator.conclude, 0, at_end=True),
    ]


def saves(
    when: Callable[[int], bool],
    is_last: Callable[[int], bool],
    run_dir: RunDir,
    result: SharedResult,
    keeper: Keeper,
    emit: Sink,
) -> Periodic:
    """Saves a checkpoint, and the result (under its final name after the last step)."""

    def act(step: int) -> None:
        try:
            keeper.save(step)
        finally:  # the one is worth having without the other
            last = is_last(step)
            try:
                file = result.save(run_dir.result(None if last else step), step)
            except NothingLearnedError as error:
                if last:
                    raise
                # An average that has not moved yet, or parts that begin to learn later: no reason to end the run.
                emit(Notice(step, message=f"step {step}: {error}"))
            else:
                if file is not None:
                    emit(ResultSaved(step, file=file.relative_to(run_dir.path).as_posix()))

    return Recurring(act, 0, at_end=True, name="save", when=when)
