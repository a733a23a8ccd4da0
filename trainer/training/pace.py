"""How long a run is and how a step is put together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    steps: int
    accumulation: int  # micro-batches per step and process
    batches_per_epoch: int
    log_every: int
    seed: int

    def logs(self, finished: int) -> bool:
        """Whether the step that makes them so many finished ones is logged."""
        return finished % self.log_every == 0 or finished == self.steps
