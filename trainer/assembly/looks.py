"""The operations that a whole run spends on validation and samples, counted in the network's forward passes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from trainer.config.intervals import Interval
from trainer.config.schema.whole import BaseConfig
from trainer.data.order.holdout import Split
from trainer.run.outputs import MEASUREMENTS
from trainer.samples import prompts
from trainer.training.pace import Pace
from trainer.validation.questions import chosen


def operations(
    config: BaseConfig,
    pace: Pace,
    split: Split,
    per_pixel: float,
    seconds: float,
    usual: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, float]:
    """By what they are spent on; nothing that does not happen.

    per_pixel: floating-point operations of a forward pass; seconds: of all steps, for what happens by the clock;
    usual: `Family.drawn`.
    """
    found = {
        "validation": per_pixel * _measured_pixels(config, split) * _measurements(config, pace, seconds),
        "samples": per_pixel * _drawn_pixels(config, usual) * _drawings(config, pace, seconds),
    }
    return {what: count for what, count in found.items() if count}


def _measured_pixels(config: BaseConfig, split: Split) -> int:
    """In one measurement."""
    settings = config.validation
    if not split.held_out.items:
        return 0
    asked = [*chosen(split.held_out, settings, settings.images).items]
    if settings.training_images:
        asked += chosen(split.training, settings, settings.training_images).items
    return settings.draws * sum(item.target[0] * item.target[1] for item in asked)


def _drawn_pixels(config: BaseConfig, usual: Mapping[str, Any]) -> int:
    """In one drawing of all samples; guidance asks the network twice in each step."""
    wanted = [r.fitting(usual, 1) for r in prompts.requests(config.samples)]
    return sum(2 * r.steps * r.width * r.height for r in wanted)


def _measurements(config: BaseConfig, pace: Pace, seconds: float) -> int:
    """The base's own among them."""
    return 1 + times(config.validation.every or math.ceil(pace.steps / MEASUREMENTS), pace, seconds)


def _drawings(config: BaseConfig, pace: Pace, seconds: float) -> int:
    return times(config.samples.every, pace, seconds) + config.samples.at_start


def times(every: int | str, pace: Pace, seconds: float) -> int:
    """How often something happens in a run that lasts so long, at its end in any case."""
    interval, steps_per_epoch = Interval.parse(every), pace.batches_per_epoch / pace.accumulation
    if interval.seconds:
        return max(1, math.ceil(seconds / interval.seconds))
    between = interval.steps or interval.epochs * steps_per_epoch
    return max(1, math.ceil(pace.steps / between)) if between else 1
