"""How the learning rate moves: a factor per step."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_steps(warmup: float, total: int) -> int:
    """A warm-up below 1 is a share of all steps."""
    return round(warmup * total) if warmup < 1 else int(warmup)


def factor(name: str, step: int, *, warmup: int, total: int) -> float:
    """The learning rate's factor at a step: rises linearly over the warm-up, then constant, linear or cosine to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if name == "constant":
        return 1.0
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    return 1.0 - share if name == "linear" else 0.5 * (1.0 + math.cos(math.pi * share))


def build(optimizer: Optimizer, name: str, *, warmup: float, total: int) -> LambdaLR:
    steps = warmup_steps(warmup, total)
    return LambdaLR(optimizer, lambda step: factor(name, step, warmup=steps, total=total))
