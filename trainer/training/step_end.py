"""What ends a step: the update, the schedule, the limit of the adapters, the averages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainer.adapters.norm_limit import NormLimit
from trainer.optim.averages import Averages
from trainer.optim.optimizers import used_rates
from trainer.optim.update import Update


@dataclass(frozen=True)
class Ended:
    """Numbers that the device may still be working on."""

    norm: Tensor  # scalar: of the gradients, before clipping; not finite where the step was not taken
    rates: list[float]  # of the optimizer's groups, in this step
    shrunk: Tensor | None  # scalar: adapters that were longer than their limit


@dataclass(frozen=True)
class StepEnd:
    update: Update
    optimizer: Optimizer
    schedule: LRScheduler
    limit: NormLimit | None
    averages: Averages
    lengths: Callable[[], None] | None = None  # brings what trains to its length
    teacher: Averages | None = None  # of the weights that give a consistency training its targets

    def take(self, number: int) -> Ended:
        """Ends step `number`, with which so many are finished."""
        rates = used_rates(self.optimizer)  # the schedule moves them to the next step's
        norm = self.update.take()
        self.optimizer.zero_grad()
        self.schedule.step()
        shrunk = None if self.limit is None else self.limit()
        if self.lengths is not None:
            self.lengths()
        self.averages.update(number)
        if self.teacher is not None:
            self.teacher.update(number)
        return Ended(norm.detach(), rates, shrunk)
