"""How long a run is and how a step is put together."""

from __future__ import annotations

import math

from trainer.config.schema.whole import BaseConfig
from trainer.data.order.plan import Plan
from trainer.training.pace import Pace


def pace_of(config: BaseConfig, plan: Plan, processes: int) -> Pace:
    training = config.training
    per_step = training.gradient_accumulation * processes
    steps = math.ceil(training.epochs * plan.batches_per_epoch / per_step) if training.epochs else training.steps
    return Pace(
        steps=steps,
        accumulation=training.gradient_accumulation,
        batches_per_epoch=plan.batches_per_epoch,
        log_every=config.logging.every,
        seed=config.run.seed,
    )
