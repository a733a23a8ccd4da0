"""How long a run is and how a step is put together."""

from __future__ import annotations

import math

from trainer.config.schema.whole import BaseConfig
from trainer.training.pace import Pace


def pace_of(config: BaseConfig, batches_per_epoch: int, processes: int) -> Pace:
    training = config.training
    per_step = training.gradient_accumulation * processes
    steps = math.ceil(training.epochs * batches_per_epoch / per_step) if training.epochs else training.steps
    return Pace(
        steps=steps,
        accumulation=training.gradient_accumulation,
        batches_per_epoch=batches_per_epoch,
        log_every=config.logging.every,
        seed=config.run.seed,
    )
