"""What protects a run from itself: steps that are not finite, memory that runs out, steps that turn slow."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import RunError

PATIENCE = 5  # steps in a row without a finite gradient, then the run stops
SCALER_PATIENCE = 40  # the same with float16: its scaler begins at 2^16 and halves at every overflow


@dataclass
class FiniteSteps:
    """Counts the steps that were skipped because loss or gradients were NaN or infinite."""

    skipped: int = 0  # in all
    in_a_row: int = 0

    def state_dict(self) -> Mapping[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

    def passed(self) -> None:
        self.in_a_row = 0

    def failed(self, step: int, names: Sequence[str]) -> str:
        """The line about a skipped step. Raises RunError when there were too many in a row."""
        return self._skip(step, names, PATIENCE)

    def overflowed(self, step: int, names: Sequence[str]) -> None:
        """A step that float16's scaler skipped, as it does now and then. Raises RunError when it finds no end."""
        self._skip(step, names, SCALER_PATIENCE)

    def _skip(self, step: int, names: Sequence[str], patience: int) -> str:
        self.skipped += 1
        self.in_a_row += 1
        files = ", ".join(dict.fromkeys(names))
        line = f"step {step}: NaN or infinity in the gradients, the update was skipped (images: {files})"
        if self.in_a_row >= patience:
            raise RunError(
                f"{line}\nThat were {patience} steps in a row, so the run stops; its weights are still sound. "
                "Try a lower optimizer.lr, training.precision = 'bf16' or 'fp32', or look at these images."
            )
        return line


SLOW = 3.0  # times the usual duration
_WARM_UP, _USUAL, _RECENT = 3, 20, 5  # measurements


@dataclass
class StepTimes:
    """Notices when steps take several times as long as at the beginning: a full GPU memory makes Windows use the
    system's memory instead, silently."""

    hint: str = ""  # what may be done about it
    rates: list[float] = field(default_factory=list)  # seconds per latent cell, so that buckets can be compared
    told: bool = False

    def add(self, step: int, seconds: float, cells: int) -> str:
        """The line to tell, once, or an empty text."""
        if self.told or not cells:
            return ""
        self.rates.append(seconds / cells)
        usual = self.rates[_WARM_UP : _WARM_UP + _USUAL]
        recent = self.rates[_WARM_UP + _USUAL :]
        if len(recent) < _RECENT:
            return ""
        factor = statistics.median(recent) / statistics.median(usual)
        del self.rates[_WARM_UP + _USUAL]
        self.told = factor >= SLOW
        return (
            f"step {step}: steps take {factor:.1f} times as long as at the beginning. {self.hint}" if self.told else ""
        )
