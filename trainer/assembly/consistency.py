"""What consistency training takes: its step, and what is told of it."""

from __future__ import annotations

from contextlib import nullcontext

from trainer.assembly.learner import Learner
from trainer.assembly.material import Material
from trainer.assembly.model import objective_of
from trainer.assembly.noise import timesteps_of
from trainer.config.schema.whole import BaseConfig
from trainer.training.consistency import ConsistencyStep, Distance, Growth
from trainer.training.noise import NoiseChain
from trainer.training.pace import Pace


def step_of(config: BaseConfig, material: Material, learner: Learner, noise: NoiseChain) -> ConsistencyStep:
    settings, family = config.consistency, material.family
    return ConsistencyStep(
        network=learner.network,
        teaching=nullcontext if learner.teacher is None else learner.teacher.applied,
        encode_images=family.encode_images,
        objective=objective_of(config, family),
        noise=noise,
        timesteps=timesteps_of(config, family.schedule),
        growth=growth_of(config, material.pace),
        distance=Distance(settings.distance, settings.huber_c),
        by_interval=settings.weighting == "interval",
    )


def growth_of(config: BaseConfig, pace: Pace) -> Growth:
    return Growth(config.consistency.begin, config.consistency.end, pace.steps)


def lines(config: BaseConfig, pace: Pace) -> list[str]:
    """What a run tells of it."""
    if not config.consistency.asked:
        return []
    growth = growth_of(config, pace)
    last = growth.intervals(pace.steps - 1)
    if last == growth.begin:
        return [f"consistency: {last} intervals from noise to picture"]
    return [f"consistency: {growth.begin} intervals from noise to picture, doubled every {growth.stay} steps to {last}"]
