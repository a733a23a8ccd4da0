"""One real step with the largest batch before the first: that it fits, and what it takes. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim import Optimizer

from trainer.data.order.source import Order
from trainer.device.checkpointing import Level
from trainer.files.atomic import size_text
from trainer.journal.console import clock
from trainer.optim.sharded_tensor import local
from trainer.parallel.stream import global_index
from trainer.training.loop import Loop

ROOM = 0.92  # of the memory that a run can have: samples, fragments and what others will take need the rest


@dataclass(frozen=True)
class Trial:
    """What one optimizer step took."""

    what: str  # the batch, in words
    seconds: float
    memory: int  # bytes: the device's peak, or what the process holds on a CPU
    total: int  # bytes that the run can have there
    device: str

    def line(self, steps: int) -> str:
        """For a run with so many steps to go."""
        return (
            f"preflight: a step with the largest batch ({self.what}) takes {self.seconds:.2f} s and "
            f"{size_text(self.memory)} of {size_text(self.total)} on {self.device}; "
            f"{steps} steps take at most about {clock(steps * self.seconds)}, plus samples and saves"
        )


def indices_of(index: int, accumulation: int, ranks: int, rank: int) -> list[int]:
    """The micro-batches of this process in the step that holds micro-batch `index`."""
    step = index // (accumulation * ranks)
    return [global_index(step, micro, accumulation, rank, ranks) for micro in range(accumulation)]


def quickest(
    levels: Sequence[Level], use: Callable[[Level], None], attempt: Callable[[], Trial]
) -> tuple[Level, Trial]:
    """The first of the levels, which are in the order of their speed, whose trial step fits with some room left; it is
    in use then. The last one only has to fit. Raises torch.OutOfMemoryError when it does not.
    """
    for level in levels:
        use(level)
        try:
            trial = attempt()
        except torch.OutOfMemoryError:
            if level == levels[-1]:
                raise
            torch.cuda.empty_cache()
            continue
        if trial.memory <= ROOM * trial.total or level == levels[-1]:
            return level, trial
    raise ValueError("there are no levels")


def attempt(loop: Loop, plan: Order, optimizer: Optimizer | None) -> Trial:
    """Takes the step that holds the largest batch; weights, gradients, modes and random streams are as before it.

    optimizer: one of its own over the same weights, whose state is thrown away; None when the run's own optimizer
    holds its state already, so that a second one would tell of memory that nobody needs. All processes get the trial
    of the one with the least room left. Raises torch.OutOfMemoryError in all of them when one has too little.
    """
    mine, problem = None, "the memory of another process ran out"
    try:
        mine = _own(loop, plan, optimizer)
    except torch.OutOfMemoryError as error:
        if loop.gradients.processes.sharded:  # the others wait for weights of this one, until it ends
            raise
        problem = str(error)  # alone: the error itself holds the tensors that filled the memory
    trials = [trial for trial in gather_object([mine]) if trial is not None]
    if len(trials) < loop.accelerator.num_processes:
        raise torch.OutOfMemoryError(problem)
    fullest: Trial = max(trials, key=lambda trial: trial.memory / trial.total)
    return fullest


def _own(loop: Loop, plan: Order, optimizer: Optimizer | None) -> Trial:
    """The trial of this process. Gradients are not exchanged: others would wait for one whose memory ran out."""
    index = plan.largest()
    device = loop.accelerator.device
    weights = loop.gradients.weights
    before = [local(w).to("cpu", copy=True) for w in weights]
    training, stream = loop.network.training, torch.get_rng_state()
    loop.network.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.monotonic()
    try:
        gradients = loop.gradients
        with loop.end.update.trial(optimizer), gradients.processes.accumulating(), gradients.step.noise.unremembered():
            passes = gradients.take(index // (loop.pace.accumulation * loop.accelerator.num_processes))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.monotonic() - started
    finally:
        _restore(weights, before)
        loop.network.train(training)
        torch.set_rng_state(stream)
    passes.check_images()
    memory, total = _memory(device)
    what = plan.describe(index)
    return Trial(what, seconds, memory, total, str(device))


@torch.no_grad()
def _restore(weights: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, before, strict=True):
        local(weight).copy_(value)
        weight.grad = None


def _memory(device: torch.device) -> tuple[int, int]:
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.empty_cache()
        # Not the card's size: CUDA's context, desktops and other programs hold some of it.
        free, _ = torch.cuda.mem_get_info(device)
        return peak, free + torch.cuda.memory_reserved(device)
    return psutil.Process().memory_info().rss, psutil.virtual_memory().total
