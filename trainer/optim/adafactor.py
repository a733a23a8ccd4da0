"""Adafactor as sd-scripts and OneTrainer use it: transformers' class, with its relative step under our schedules.

Shazeer and Stern 2018 (arXiv 1804.04235). torch's class of that name scales every rate by the weight's size, at least
1e-3, whatever it is told: a LoRA's matrices, which begin at zero, would hardly move.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from transformers.optimization import Adafactor as Original


class Adafactor(Original):
    """With `relative_step`, the default, the step's size is found: min(1e-2, 1 / sqrt(step)), and learning rates have
    no effect; schedules, warm-up and windows multiply it. `warmup_init` asks for `relative_step`, as in sd-scripts."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | None = None,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=None,  # that of the groups counts
            eps=tuple(eps),
            clip_threshold=clip_threshold,
            decay_rate=decay_rate,
            beta1=beta1,
            weight_decay=weight_decay,
            scale_parameter=scale_parameter,
            relative_step=relative_step or warmup_init,
            warmup_init=warmup_init,
        )

    @staticmethod
    def _get_lr(param_group: Mapping[str, Any], param_state: Mapping[str, Any]) -> float | Tensor:
        rate = relative_rate(param_group, param_state["step"])
        if not param_group["scale_parameter"]:
            return rate
        size: Tensor = param_state["RMS"]
        return size.clamp(min=param_group["eps"][1]) * rate  # a tensor: a GPU need not be waited for

    def used_rate(self, group: Mapping[str, Any]) -> float:
        """The rate of the step that comes next, before it is scaled by a weight's size."""
        return relative_rate(group, 1 + max((self.state[p].get("step", 0) for p in group["params"]), default=0))


def relative_rate(group: Mapping[str, Any], step: int) -> float:
    """The rate of a step, counted from 1. Raises nothing; a group without a schedule has the factor 1."""
    rate = float(group["lr"])
    if not group["relative_step"]:
        return rate
    least = 1e-6 * step if group["warmup_init"] else 1e-2
    return min(least, 1 / math.sqrt(step)) * rate / float(group.get("initial_lr", rate) or 1.0)
