"""How often something happens during a run: every so many steps, epochs, or minutes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_TEXT = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|seconds?|m|min|minutes?|h|hours?|e|epochs?)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Interval:
    """At most one of the three is above 0; none means never."""

    steps: int = 0
    epochs: float = 0.0
    seconds: float = 0.0

    @classmethod
    def parse(cls, value: int | str) -> Interval:
        """400 (steps), "90s", "15m", "2h", "1 epoch", "0.5 epochs". Raises ValueError."""
        if isinstance(value, int):
            return cls(steps=value)
        found = _TEXT.fullmatch(value.strip().lower())
        if found is None or not float(found[1]):
            raise ValueError("a number of steps, or a text such as '15m', '2h', '1 epoch'")
        amount, unit = float(found[1]), found[2][0]
        return cls(epochs=amount) if unit == "e" else cls(seconds=amount * _SECONDS[unit])

    def after_step(self, step: int, steps_per_epoch: float) -> bool:
        """Whether it happens once `step` steps are finished; not for intervals in time."""
        if self.steps:
            return step % self.steps == 0
        if self.epochs:
            length = self.epochs * steps_per_epoch
            # Epochs need not end with a step; the first step that reaches the end counts. Rounded: 3 * 0.1 > 0.3.
            return math.floor(round(step / length, 9)) > math.floor(round((step - 1) / length, 9))
        return False
