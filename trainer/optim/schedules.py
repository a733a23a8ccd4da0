"""How the learning rate moves: a factor per step, as pure functions of the share of the run that is done.

After the warm-up every schedule but inverse_sqrt sees only `share`, 0 at its end and 1 at the end of the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class Shape:
    """One run's schedule. `warmup` below 1 is a share of all steps, else a number of steps."""

    name: str = "constant"
    warmup: float = 0
    cycles: float = 1
    power: float = 1
    minimum: float = 0  # share of the learning rate that is never undercut
    pieces: Sequence[tuple[float, float]] = ()  # piecewise_constant: until which share of the run, factor
    decay: float = 0.2  # warmup_stable_decay: share of the run, at its end, in which it falls

    def warmup_steps(self, total: int) -> int:
        return round(self.warmup * total) if self.warmup < 1 else int(self.warmup)

    def factor(self, step: int, total: int) -> float:
        """The factor of the learning rate in the step after `step` finished ones."""
        warmup = self.warmup_steps(total)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.name == "inverse_sqrt":
            return math.sqrt(max(1, warmup) / max(1, warmup, step))
        share = min(1.0, (step - warmup) / max(1, total - warmup))
        return self.minimum + (1 - self.minimum) * SCHEDULES[self.name](share, self)


def constant(share: float, shape: Shape) -> float:
    return 1.0


def linear(share: float, shape: Shape) -> float:
    return 1.0 - share


def cosine(share: float, shape: Shape) -> float:
    """Half a cosine wave down; with more cycles, that many whole waves less a half."""
    return 0.5 * (1 + math.cos(math.pi * share * (2 * shape.cycles - 1)))


def cosine_with_restarts(share: float, shape: Shape) -> float:
    """`cycles` falls from the full rate: Loshchilov and Hutter 2016, arXiv 1608.03983, without growing periods."""
    return 0.0 if share >= 1 else 0.5 * (1 + math.cos(math.pi * (share * shape.cycles % 1.0)))


def polynomial(share: float, shape: Shape) -> float:
    return float((1 - share) ** shape.power)


def rex(share: float, shape: Shape) -> float:
    """Chen et al. 2021, arXiv 2107.04197, equation 1: stays high, falls late."""
    return (1 - share) / (0.5 + 0.5 * (1 - share))


def warmup_stable_decay(share: float, shape: Shape) -> float:
    """Hu et al. 2024, arXiv 2404.06395: constant, then a linear fall over the last `decay` of the run."""
    return min(1.0, (1 - share) / shape.decay)


def piecewise_constant(share: float, shape: Shape) -> float:
    """The factor of the first piece that has not ended, the last one's to the end."""
    return next((factor for until, factor in shape.pieces if share < until), shape.pieces[-1][1])


SCHEDULES: dict[str, Callable[[float, Shape], float]] = {
    function.__name__: function
    for function in (
        constant,
        linear,
        cosine,
        cosine_with_restarts,
        polynomial,
        rex,
        warmup_stable_decay,
        piecewise_constant,
    )
}


def build(optimizer: Optimizer, shape: Shape, *, total: int, during: Sequence[range]) -> LambdaLR:
    """The schedule over an optimizer's groups; group i learns in the steps `during[i]`, counted from 0."""

    def of_group(steps: range) -> Callable[[int], float]:
        return lambda step: shape.factor(step, total) if step in steps else 0.0

    return LambdaLR(optimizer, [of_group(steps) for steps in during])
