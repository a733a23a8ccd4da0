"""The gradients of one optimizer step: its micro-batches forward and backward, compiled or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.batch import Batch
from trainer.device.compilation import Compiled, sample_of
from trainer.optim.update import Update
from trainer.parallel.processes import Processes
from trainer.parallel.stream import global_index
from trainer.training.noise import Streams
from trainer.training.pace import Pace
from trainer.training.step import Step, StepResult, refuse_unsound


@dataclass(frozen=True)
class Passes:
    """What the forward passes of a step gave, by micro-batch."""

    results: Sequence[StepResult]
    names: Sequence[str]  # of the images
    sizes: tuple[str, ...]  # of the batches, e.g. "2x4x64x64"
    cells: int  # latent values, or pixels, of this process

    @property
    def sound(self) -> list[Tensor]:
        """Of images that were encoded in the step, whether their latents are numbers; bool, on the device."""
        return [r.sound for r in self.results if r.sound is not None]

    def check_images(self) -> None:
        """Waits for the device. Raises UserError for images whose latents are no numbers."""
        if self.sound:
            refuse_unsound(self.names, torch.cat(self.sound).tolist())


@dataclass
class Gradients:
    """Fills the gradients of the trained weights."""

    accelerator: Accelerator
    processes: Processes
    step: Step
    batch: Callable[[int], Batch]  # micro-batch by its index in the endless stream that all processes share
    pace: Pace
    optimizer: Optimizer
    update: Update
    compiled: Compiled | None
    untold: list[str] = field(default_factory=list)  # what a person should know; a trial step has no log to tell it

    def take(self, finished: int) -> Passes:
        """Those of the step after `finished` ones; without compiled blocks where the compiler fails or errs, which is
        told once."""
        if self.compiled is None:
            return self.eager(finished)
        try:
            passes = self.eager(finished)
            told = self.doubt(finished, self.compiled, passes.sizes)
        except Exception as error:
            told = self.compiled.give_up(error)
            if not told or self.update.in_backward:  # some weights may have been updated already
                raise
        if not told:
            return passes
        self.untold.append(told)
        self.optimizer.zero_grad()
        return self.eager(finished)

    def doubt(self, finished: int, compiled: Compiled, sizes: tuple[str, ...]) -> str:
        """Compares the gradients with eager ones when a size is met for the first time, and leaves them as they are.

        A single process can: several exchange gradients, and their sizes are new at different steps.
        """
        alone = self.accelerator.num_processes == 1
        if self.update.in_backward or not alone or not compiled.is_new(sizes):
            return ""
        found = sample_of(self.weights)
        self.optimizer.zero_grad()
        with compiled.paused():
            self.eager(finished)
        told = compiled.doubt(found, sample_of(self.weights), sizes)
        if not told:
            self.optimizer.zero_grad()
            self.eager(finished)
        return told

    def eager(self, finished: int) -> Passes:
        """As the network is now; with the last micro-batch gradients are exchanged between processes."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        batches, results = [], []
        for micro in range(self.pace.accumulation):
            index = global_index(finished, micro, self.pace.accumulation, rank, ranks)
            batch = self.batch(index).to(self.accelerator.device)
            streams = Streams(self.pace.seed, finished, micro, rank, self.accelerator.device)
            streams.seed_networks()
            last = micro == self.pace.accumulation - 1
            with self.step.held(batch), nullcontext() if last else self.processes.accumulating():
                result = self.step(batch, streams)
                self.processes.backward(result.loss, last=last)
            batches.append(batch)
            results.append(result)
        images = [t for b in batches for t in (b.latents, b.pixels) if t is not None]
        return Passes(
            results,
            names=[name for b in batches for name in b.names],
            sizes=tuple("x".join(map(str, t.shape)) for t in images),
            cells=sum(t.numel() for t in images),
        )

    @property
    def weights(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]
